#include "ipsec.h"

#include "control.h"
#include "sa_request.h"

#include <daemon.h>
#include <collections/hashtable.h>
#include <processing/jobs/callback_job.h>
#include <threading/mutex.h>
#include <threading/thread.h>

/**
 * Seconds for which an SPI stays reserved while its SA is negotiated: as long as charon retransmits by default, which is
 * what it asks of the kernel as well.
 */
#define LARVAL_LIFETIME 165

/** Milliseconds between two attempts to find an nf-core that is gone. */
#define RETRY 200

/** Room for a request without keys: two addresses and a few numbers. */
#define LINE 256

typedef struct private_ipsec_t private_ipsec_t;
typedef struct entry_t entry_t;
typedef struct expiry_t expiry_t;

struct private_ipsec_t {
	kernel_ipsec_t public;
	char *path;
	/** For requests. */
	control_t *control;
	/** For the watcher: events. */
	control_t *events;
	/** SAs and reserved SPIs, entry_t; protected by the mutex. */
	hashtable_t *entries;
	mutex_t *mutex;
	/** Tells SAs apart that have the same SPI one after the other. */
	u_int next_serial;
};

/** An SA, or a reserved SPI. */
struct entry_t {
	/** In network order, as charon has it. */
	uint32_t spi;
	host_t *dst;
	/** FALSE: reserved. */
	bool installed;
	/** The peer's SPI at the peer's address. */
	bool outbound;
	/** Outbound: nf-core has it go where the packets of its CHILD_SA's inbound SA come from. */
	bool follows;
	/** Of an SA: where its packets come from. */
	host_t *src;
	uint32_t reqid;
	u_int serial;
};

/** The end of an SA's time, or the time to rekey it. Octets and packets are counted by nf-core. */
struct expiry_t {
	private_ipsec_t *ipsec;
	uint32_t spi;
	host_t *dst;
	u_int serial;
	bool hard;
};

static u_int entry_hash(const void *key)
{
	const entry_t *entry = key;

	return chunk_hash_inc(entry->dst->get_address(entry->dst), chunk_hash(chunk_from_thing(entry->spi)));
}

static bool entry_equals(const void *a, const void *b)
{
	const entry_t *one = a, *other = b;

	return one->spi == other->spi && one->dst->ip_equals(one->dst, other->dst);
}

static void entry_destroy(entry_t *this)
{
	this->dst->destroy(this->dst);
	DESTROY_IF(this->src);
	free(this);
}

static void expiry_destroy(expiry_t *this)
{
	this->dst->destroy(this->dst);
	free(this);
}

/** Notes an SPI that is reserved, or an SA, and owns the note from now on; gives its serial number. */
static u_int note(private_ipsec_t *this, entry_t *entry)
{
	entry_t *old;
	u_int serial;

	this->mutex->lock(this->mutex);
	serial = entry->serial = this->next_serial++;
	old = this->entries->put(this->entries, entry, entry);
	this->mutex->unlock(this->mutex);
	if (old)
	{
		entry_destroy(old);
	}
	return serial;
}

/**
 * The SPI, in host order, of the inbound SA that an outbound one of a peer behind a NAT follows; 0 if there is none. charon
 * installs the inbound half of a CHILD_SA first. Who is behind a NAT himself stays where he is (RFC 7296 2.23).
 */
static uint32_t followed(private_ipsec_t *this, kernel_ipsec_sa_id_t *id, kernel_ipsec_add_sa_t *data)
{
	ike_sa_t *ike_sa = charon->bus->get_sa(charon->bus);
	enumerator_t *enumerator;
	entry_t *entry, *newest = NULL;
	uint32_t spi = 0;

	if (data->inbound || !data->encap || data->mode != MODE_TUNNEL || !ike_sa ||
		!ike_sa->has_condition(ike_sa, COND_NAT_THERE) || ike_sa->has_condition(ike_sa, COND_NAT_HERE))
	{
		return 0;
	}
	this->mutex->lock(this->mutex);
	enumerator = this->entries->create_enumerator(this->entries);
	while (enumerator->enumerate(enumerator, NULL, &entry))
	{
		if (entry->installed && !entry->outbound && entry->reqid == data->reqid &&
			entry->dst->ip_equals(entry->dst, id->src) && entry->src->ip_equals(entry->src, id->dst) &&
			(!newest || (int)(entry->serial - newest->serial) > 0))
		{
			newest = entry;
			spi = ntohl(entry->spi);
		}
	}
	enumerator->destroy(enumerator);
	this->mutex->unlock(this->mutex);
	return spi;
}

/** The note of an SPI, or NULL. The mutex is held. */
static entry_t *noted(private_ipsec_t *this, uint32_t spi, host_t *dst)
{
	entry_t key = {
		.spi = spi,
		.dst = dst,
	};

	return this->entries->get(this->entries, &key);
}

/** Takes the note of an SPI away and gives it; NULL if there is none. */
static entry_t *forget(private_ipsec_t *this, uint32_t spi, host_t *dst)
{
	entry_t key = {
		.spi = spi,
		.dst = dst,
	}, *entry;

	this->mutex->lock(this->mutex);
	entry = this->entries->remove(this->entries, &key);
	this->mutex->unlock(this->mutex);
	return entry;
}

/** Asks nf-core for something about one SPI. */
static control_result_t about(private_ipsec_t *this, control_t *control, const char *op, const char *what,
							  uint32_t spi, host_t *dst, json_object **answer)
{
	char line[LINE];
	int len;

	len = snprintf(line, sizeof(line), "{\"op\":\"%s\",\"spi\":%u,\"dst\":\"%H\"}", op, ntohl(spi), dst);
	return control->call(control, chunk_create((u_char*)line, len), what, answer);
}

METHOD(kernel_ipsec_t, get_features, kernel_feature_t,
	private_ipsec_t *this)
{
	return KERNEL_ESP_V3_TFC | KERNEL_NO_POLICY_UPDATES;
}

METHOD(kernel_ipsec_t, get_spi, status_t,
	private_ipsec_t *this, host_t *src, host_t *dst, uint8_t protocol, uint32_t *spi)
{
	json_object *answer = NULL, *number;
	status_t status = FAILED;
	char line[LINE];
	entry_t *entry;
	int len;

	/* without the source: a peer behind a NAT may be seen at another address by the time that its SA is installed */
	len = snprintf(line, sizeof(line), "{\"op\":\"sa-reserve\",\"dst\":\"%H\",\"lifetime_s\":%u}", dst, LARVAL_LIFETIME);
	if (this->control->call(this->control, chunk_create((u_char*)line, len), "reserve an SPI", &answer) == CONTROL_OK &&
		json_object_object_get_ex(answer, "spi", &number))
	{
		*spi = htonl(json_object_get_int64(number));
		INIT(entry,
			.spi = *spi,
			.dst = dst->clone(dst),
		);
		note(this, entry);
		status = SUCCESS;
	}
	json_object_put(answer);
	return status;
}

METHOD(kernel_ipsec_t, get_cpi, status_t,
	private_ipsec_t *this, host_t *src, host_t *dst, uint16_t *cpi)
{
	return NOT_SUPPORTED;
}

/** The end of an SA's time, if it is still the same SA. */
static job_requeue_t expire(expiry_t *expiry)
{
	private_ipsec_t *this = expiry->ipsec;
	entry_t *entry;
	bool same;

	this->mutex->lock(this->mutex);
	entry = noted(this, expiry->spi, expiry->dst);
	same = entry && entry->serial == expiry->serial;
	this->mutex->unlock(this->mutex);
	if (same)
	{
		charon->kernel->expire(charon->kernel, IPPROTO_ESP, expiry->spi, expiry->dst, expiry->hard);
	}
	return JOB_REQUEUE_NONE;
}

static void schedule_expiry(private_ipsec_t *this, kernel_ipsec_sa_id_t *id, u_int serial, uint64_t seconds, bool hard)
{
	expiry_t *expiry;

	if (!seconds)
	{
		return;
	}
	INIT(expiry,
		.ipsec = this,
		.spi = id->spi,
		.dst = id->dst->clone(id->dst),
		.serial = serial,
		.hard = hard,
	);
	lib->scheduler->schedule_job(lib->scheduler,
			(job_t*)callback_job_create((callback_job_cb_t)expire, expiry, (callback_job_cleanup_t)expiry_destroy, NULL),
			seconds);
}

METHOD(kernel_ipsec_t, add_sa, status_t,
	private_ipsec_t *this, kernel_ipsec_sa_id_t *id, kernel_ipsec_add_sa_t *data)
{
	lifetime_cfg_t *lifetime = data->lifetime;
	uint32_t follows = followed(this, id, data);
	control_result_t result;
	entry_t *entry;
	chunk_t line;
	u_int serial;

	if (!sa_request(id, data, follows, &line))
	{
		return FAILED;
	}
	result = this->control->call(this->control, line, "add the SA", NULL);
	chunk_clear(&line);
	if (result != CONTROL_OK)
	{
		return FAILED;
	}
	INIT(entry,
		.spi = id->spi,
		.dst = id->dst->clone(id->dst),
		.installed = TRUE,
		.outbound = !data->inbound,
		.follows = follows != 0,
		.src = id->src->clone(id->src),
		.reqid = data->reqid,
	);
	serial = note(this, entry);
	/* one half's time is enough: the halves of a CHILD_SA end together */
	if (data->inbound)
	{
		schedule_expiry(this, id, serial, lifetime->time.rekey, FALSE);
		schedule_expiry(this, id, serial, lifetime->time.life, TRUE);
	}
	return SUCCESS;
}

METHOD(kernel_ipsec_t, update_sa, status_t,
	private_ipsec_t *this, kernel_ipsec_sa_id_t *id, kernel_ipsec_update_sa_t *data)
{
	entry_t *entry;
	bool known, outbound, follows;

	this->mutex->lock(this->mutex);
	entry = noted(this, id->spi, id->dst);
	known = entry != NULL;
	outbound = entry && entry->outbound;
	follows = entry && entry->follows;
	this->mutex->unlock(this->mutex);
	/* nf-core takes an SA's packets from any source, in UDP and without. For another address of ours the SA would have to
	 * be installed anew, with an empty replay window, and for another one of the peer's with used sequence numbers: charon
	 * makes a new one instead if told that this can't be done. Another port of the peer's NAT nf-core finds by itself. */
	if (!known || (!outbound && id->dst->ip_equals(id->dst, data->new_dst)) ||
		(outbound && (follows ? id->dst->ip_equals(id->dst, data->new_dst) : id->dst->equals(id->dst, data->new_dst)) &&
		 id->src->ip_equals(id->src, data->new_src) && data->encap == data->new_encap))
	{
		return SUCCESS;
	}
	return NOT_SUPPORTED;
}

METHOD(kernel_ipsec_t, query_sa, status_t,
	private_ipsec_t *this, kernel_ipsec_sa_id_t *id, kernel_ipsec_query_sa_t *data, uint64_t *bytes,
	uint64_t *packets, time_t *time)
{
	json_object *answer = NULL, *number;
	status_t status = FAILED;
	entry_t *entry;
	bool installed;

	this->mutex->lock(this->mutex);
	entry = noted(this, id->spi, id->dst);
	installed = entry && entry->installed;
	this->mutex->unlock(this->mutex);
	if (!installed)
	{
		return NOT_SUPPORTED;
	}
	if (about(this, this->control, "sa-show", "show the SA", id->spi, id->dst, &answer) == CONTROL_OK)
	{
		if (packets && json_object_object_get_ex(answer, "packets", &number))
		{
			*packets = json_object_get_int64(number);
		}
		if (bytes && json_object_object_get_ex(answer, "octets", &number))
		{
			*bytes = json_object_get_int64(number);
		}
		/* nf-core doesn't tell when an SA was last used */
		if (time)
		{
			*time = 0;
		}
		status = SUCCESS;
	}
	json_object_put(answer);
	return status;
}

METHOD(kernel_ipsec_t, del_sa, status_t,
	private_ipsec_t *this, kernel_ipsec_sa_id_t *id, kernel_ipsec_del_sa_t *data)
{
	entry_t *entry = forget(this, id->spi, id->dst);
	control_result_t result;

	if (!entry)
	{
		return SUCCESS;
	}
	if (entry->installed)
	{
		result = about(this, this->control, "sa-del", "delete the SA", id->spi, id->dst, NULL);
	}
	else
	{
		result = about(this, this->control, "sa-release", "release the SPI", id->spi, id->dst, NULL);
	}
	entry_destroy(entry);
	return result == CONTROL_OK ? SUCCESS : FAILED;
}

METHOD(kernel_ipsec_t, flush_sas, status_t,
	private_ipsec_t *this)
{
	enumerator_t *enumerator;
	linked_list_t *all;
	entry_t *entry;

	all = linked_list_create();
	this->mutex->lock(this->mutex);
	enumerator = this->entries->create_enumerator(this->entries);
	while (enumerator->enumerate(enumerator, NULL, &entry))
	{
		this->entries->remove_at(this->entries, enumerator);
		all->insert_last(all, entry);
	}
	enumerator->destroy(enumerator);
	this->mutex->unlock(this->mutex);
	while (all->remove_first(all, (void**)&entry) == SUCCESS)
	{
		about(this, this->control, entry->installed ? "sa-del" : "sa-release", "flush an SA", entry->spi, entry->dst, NULL);
		entry_destroy(entry);
	}
	all->destroy(all);
	return SUCCESS;
}

METHOD(kernel_ipsec_t, add_policy, status_t,
	private_ipsec_t *this, kernel_ipsec_policy_id_t *id, kernel_ipsec_manage_policy_t *data)
{
	return SUCCESS;
}

METHOD(kernel_ipsec_t, query_policy, status_t,
	private_ipsec_t *this, kernel_ipsec_policy_id_t *id, kernel_ipsec_query_policy_t *data, time_t *use_time)
{
	return NOT_SUPPORTED;
}

METHOD(kernel_ipsec_t, del_policy, status_t,
	private_ipsec_t *this, kernel_ipsec_policy_id_t *id, kernel_ipsec_manage_policy_t *data)
{
	return SUCCESS;
}

METHOD(kernel_ipsec_t, flush_policies, status_t,
	private_ipsec_t *this)
{
	return SUCCESS;
}

METHOD(kernel_ipsec_t, bypass_socket, bool,
	private_ipsec_t *this, int fd, int family)
{
	/* there are no policies that IKE would have to pass by */
	return TRUE;
}

METHOD(kernel_ipsec_t, enable_udp_decap, bool,
	private_ipsec_t *this, int fd, int family, uint16_t port)
{
	/* nf-core takes ESP in UDP off the wire; the socket gets IKE */
	return TRUE;
}

/**
 * Has charon rekey the SAs that nf-core no longer has: those of an nf-core that was restarted. They can't be installed
 * again, as their replay windows are gone.
 */
static void replace_lost(private_ipsec_t *this)
{
	enumerator_t *enumerator;
	linked_list_t *all;
	expiry_t *expiry;
	entry_t *entry;

	all = linked_list_create();
	this->mutex->lock(this->mutex);
	enumerator = this->entries->create_enumerator(this->entries);
	while (enumerator->enumerate(enumerator, NULL, &entry))
	{
		/* both halves are lost together, and rekeyed together */
		if (entry->installed && !entry->outbound)
		{
			INIT(expiry,
				.ipsec = this,
				.spi = entry->spi,
				.dst = entry->dst->clone(entry->dst),
				.serial = entry->serial,
			);
			all->insert_last(all, expiry);
		}
	}
	enumerator->destroy(enumerator);
	this->mutex->unlock(this->mutex);
	while (all->remove_first(all, (void**)&expiry) == SUCCESS)
	{
		if (about(this, this->control, "sa-show", "find an SA again, which charon will rekey", expiry->spi, expiry->dst,
				  NULL) == CONTROL_REFUSED)
		{
			expire(expiry);
		}
		expiry_destroy(expiry);
	}
	all->destroy(all);
}

/** An event of nf-core's. */
static void handle(private_ipsec_t *this, json_object *event)
{
	json_object *kind, *number, *address, *limit;
	bool ours;
	entry_t *entry;
	uint32_t spi;
	host_t *dst;

	if (!json_object_object_get_ex(event, "kind", &kind) || !json_object_object_get_ex(event, "spi", &number) ||
		!json_object_object_get_ex(event, "dst", &address))
	{
		return;
	}
	spi = htonl(json_object_get_int64(number));
	dst = host_create_from_string((char*)json_object_get_string(address), 0);
	if (dst && streq(json_object_get_string(kind), "sa-lifetime") && json_object_object_get_ex(event, "limit", &limit))
	{
		this->mutex->lock(this->mutex);
		ours = noted(this, spi, dst) != NULL;
		this->mutex->unlock(this->mutex);
		if (ours)
		{
			charon->kernel->expire(charon->kernel, IPPROTO_ESP, spi, dst, streq(json_object_get_string(limit), "hard"));
		}
	}
	else if (dst && streq(json_object_get_string(kind), "sa-reservation-expired"))
	{
		this->mutex->lock(this->mutex);
		entry = noted(this, spi, dst);
		if (entry && !entry->installed)
		{
			this->entries->remove(this->entries, entry);
			entry_destroy(entry);
		}
		this->mutex->unlock(this->mutex);
	}
	DESTROY_IF(dst);
}

/** Watches nf-core, from one end of a connection to the next. */
static job_requeue_t watch(private_ipsec_t *this)
{
	chunk_t subscribe = chunk_from_str("{\"op\":\"subscribe\",\"kinds\":[\"sa-lifetime\",\"sa-reservation-expired\"]}");
	json_object *line, *event;

	if (this->events->call(this->events, subscribe, "tell of events", NULL) != CONTROL_OK)
	{
		return JOB_RESCHEDULE_MS(RETRY);
	}
	DBG1(DBG_KNL, "nf-core at %s is there", this->path);
	replace_lost(this);
	while ((line = this->events->next(this->events)))
	{
		if (json_object_object_get_ex(line, "event", &event))
		{
			handle(this, event);
		}
		json_object_put(line);
	}
	DBG1(DBG_KNL, "nf-core at %s is gone, and all SAs with it; they will be rekeyed when it is back", this->path);
	return JOB_REQUEUE_DIRECT;
}

CALLBACK(destroy_entry, void,
	entry_t *entry, const void *spi)
{
	entry_destroy(entry);
}

METHOD(kernel_ipsec_t, destroy, void,
	private_ipsec_t *this)
{
	this->entries->destroy_function(this->entries, destroy_entry);
	this->mutex->destroy(this->mutex);
	this->control->destroy(this->control);
	this->events->destroy(this->events);
	free(this->path);
	free(this);
}

kernel_ipsec_t *nf_core_ipsec_create()
{
	private_ipsec_t *this;
	char *path;

	path = lib->settings->get_str(lib->settings, "%s.plugins.kernel-nf-core.socket", NF_CORE_SOCKET, lib->ns);
	INIT(this,
		.public = {
			.get_features = _get_features,
			.get_spi = _get_spi,
			.get_cpi = _get_cpi,
			.add_sa = _add_sa,
			.update_sa = _update_sa,
			.query_sa = _query_sa,
			.del_sa = _del_sa,
			.flush_sas = _flush_sas,
			.add_policy = _add_policy,
			.query_policy = _query_policy,
			.del_policy = _del_policy,
			.flush_policies = _flush_policies,
			.bypass_socket = _bypass_socket,
			.enable_udp_decap = _enable_udp_decap,
			.destroy = _destroy,
		},
		.path = strdup(path),
		.control = control_create(path, FALSE),
		.events = control_create(path, TRUE),
		.entries = hashtable_create(entry_hash, entry_equals, 32),
		.mutex = mutex_create(MUTEX_TYPE_DEFAULT),
	);
	lib->processor->queue_job(lib->processor,
			(job_t*)callback_job_create_with_prio((callback_job_cb_t)watch, this, NULL,
			(callback_job_cancel_t)return_false, JOB_PRIO_CRITICAL));
	return &this->public;
}
