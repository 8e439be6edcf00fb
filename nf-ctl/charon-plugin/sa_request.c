#include "sa_request.h"

#include <daemon.h>

/** Replay windows that nf-core has, in packets; and 0. */
#define MIN_WINDOW 32
#define MAX_WINDOW 65536

/** Seconds by which an SA outlives charon's own timer for it: it ends in nf-core alone if charon was killed. */
#define ORPHAN 60

/** Room for everything but selectors: the longest keys take 64 and 128 hex digits, addresses 45 characters each. */
#define ROOM 1024
/** Room for a selector, with protocol and ports, quotes and comma. */
#define SELECTOR_ROOM 96

/** What is being written. It doesn't grow: what realloc() leaves behind would hold keys. */
typedef struct {
	char *text;
	size_t room;
	size_t len;
} writer_t;

static void put(writer_t *writer, const char *format, ...)
{
	va_list args;
	int len;

	va_start(args, format);
	len = vsnprintf(writer->text + writer->len, writer->room - writer->len, format, args);
	va_end(args);
	/* what doesn't fit is noticed at the end */
	writer->len = min(writer->room, writer->len + max(len, 0));
}

static void put_hex(writer_t *writer, const char *name, chunk_t key)
{
	char hex[2 * key.len + 1];

	chunk_to_hex(key, hex, FALSE);
	put(writer, ",\"%s\":\"%s\"", name, hex);
	memwipe(hex, sizeof(hex));
}

static const char *cipher(uint16_t alg)
{
	switch (alg)
	{
		case ENCR_AES_GCM_ICV16:
			return "aes-gcm-16";
		case ENCR_AES_GCM_ICV12:
			return "aes-gcm-12";
		case ENCR_AES_GCM_ICV8:
			return "aes-gcm-8";
		case ENCR_CHACHA20_POLY1305:
			return "chacha20-poly1305";
		case ENCR_AES_CBC:
			return "aes-cbc";
		case ENCR_NULL:
			return "null";
		default:
			return NULL;
	}
}

static const char *integrity(uint16_t alg)
{
	switch (alg)
	{
		case AUTH_HMAC_SHA1_96:
			return "hmac-sha1-96";
		case AUTH_HMAC_SHA2_256_128:
			return "hmac-sha256-128";
		case AUTH_HMAC_SHA2_384_192:
			return "hmac-sha384-192";
		case AUTH_HMAC_SHA2_512_256:
			return "hmac-sha512-256";
		default:
			return NULL;
	}
}

/** A window that nf-core has, no smaller than the one that was asked for, if there is one. */
static uint32_t window(uint32_t packets)
{
	return packets ? max(MIN_WINDOW, min(MAX_WINDOW, packets)) : 0;
}

/** Limits on octets and packets. The seconds are charon's, but for the end of all. */
static void put_limits(writer_t *writer, lifetime_cfg_t *lifetime)
{
	uint64_t seconds = lifetime->time.life;

	put(writer, ",\"lifetime\":{\"soft\":{");
	if (lifetime->bytes.rekey)
	{
		put(writer, "\"bytes\":%llu%s", (unsigned long long)lifetime->bytes.rekey, lifetime->packets.rekey ? "," : "");
	}
	if (lifetime->packets.rekey)
	{
		put(writer, "\"packets\":%llu", (unsigned long long)lifetime->packets.rekey);
	}
	put(writer, "},\"hard\":{");
	if (lifetime->bytes.life)
	{
		put(writer, "\"bytes\":%llu%s", (unsigned long long)lifetime->bytes.life,
			lifetime->packets.life || seconds ? "," : "");
	}
	if (lifetime->packets.life)
	{
		put(writer, "\"packets\":%llu%s", (unsigned long long)lifetime->packets.life, seconds ? "," : "");
	}
	if (seconds)
	{
		put(writer, "\"seconds\":%llu", (unsigned long long)seconds + ORPHAN);
	}
	put(writer, "}}");
}

static bool put_selectors(writer_t *writer, const char *name, linked_list_t *list)
{
	enumerator_t *enumerator;
	traffic_selector_t *ts;
	const char *comma = "";
	bool fit = TRUE, network;
	host_t *net;
	uint8_t mask;

	put(writer, "\"%s\":[", name);
	enumerator = list->create_enumerator(list);
	while (fit && enumerator->enumerate(enumerator, &ts))
	{
		network = ts->to_subnet(ts, &net, &mask);
		if (!network)
		{
			DBG1(DBG_KNL, "nf-core's selectors are networks, and %R isn't one: name networks in local_ts and remote_ts",
				 ts);
			fit = FALSE;
		}
		else
		{
			put(writer, "%s\"%H/%u", comma, net, mask);
			if (ts->get_protocol(ts) || ts->get_from_port(ts) != 0 || ts->get_to_port(ts) != 65535)
			{
				put(writer, "[%u", ts->get_protocol(ts));
				if (ts->get_from_port(ts) != 0 || ts->get_to_port(ts) != 65535)
				{
					/* nf-core refuses what no packet can be held against: ports of protocol 0, and OPAQUE */
					put(writer, "/%u-%u", ts->get_from_port(ts), ts->get_to_port(ts));
				}
				put(writer, "]");
			}
			put(writer, "\"");
			comma = ",";
		}
		net->destroy(net);
	}
	enumerator->destroy(enumerator);
	put(writer, "]");
	return fit;
}

bool sa_request(kernel_ipsec_sa_id_t *id, kernel_ipsec_add_sa_t *data, uint32_t follows, chunk_t *line)
{
	const char *alg = cipher(data->enc_alg), *auth = integrity(data->int_alg);
	bool separate = data->int_alg != AUTH_UNDEFINED, complete = FALSE;
	writer_t writer = {
		.room = ROOM + 2 * (data->enc_key.len + data->int_key.len) + SELECTOR_ROOM *
				(data->src_ts->get_count(data->src_ts) + data->dst_ts->get_count(data->dst_ts)),
	};

	if (id->proto != IPPROTO_ESP)
	{
		DBG1(DBG_KNL, "nf-core terminates ESP only: remove ah_proposals from the connection");
		return FALSE;
	}
	if (data->mode != MODE_TUNNEL && data->mode != MODE_TRANSPORT)
	{
		DBG1(DBG_KNL, "nf-core has tunnel and transport mode, not %N", ipsec_mode_names, data->mode);
		return FALSE;
	}
	if (!alg || (separate && !auth))
	{
		DBG1(DBG_KNL, "nf-core has no %N with %N; it has aes128gcm16 to aes256gcm8, chacha20poly1305, and aes128 to aes256 "
			 "with sha1, sha256, sha384 or sha512: name one of them in esp_proposals", encryption_algorithm_names,
			 data->enc_alg, integrity_algorithm_names, data->int_alg);
		return FALSE;
	}

	writer.text = malloc(writer.room);
	put(&writer, "{\"op\":\"sa-add\",\"sa\":{\"spi\":%u,\"src\":\"%H\",\"dst\":\"%H\",\"mode\":\"%s\",\"alg\":\"%s\"",
		ntohl(id->spi), id->src, id->dst, data->mode == MODE_TUNNEL ? "tunnel" : "transport", alg);
	if (data->enc_key.len)
	{
		put_hex(&writer, "key", data->enc_key);
	}
	if (separate)
	{
		put(&writer, ",\"auth\":\"%s\"", auth);
		put_hex(&writer, "auth_key", data->int_key);
	}
	put_limits(&writer, data->lifetime);
	put(&writer, ",\"esn\":%s,\"replay_window\":%u,\"encap\":\"%s\",\"selectors\":{", data->esn ? "true" : "false",
		window(data->replay_window), data->encap ? "udp" : "none");
	if (put_selectors(&writer, "src", data->src_ts))
	{
		put(&writer, ",");
		complete = put_selectors(&writer, "dst", data->dst_ts);
	}
	put(&writer, "}");
	if (!data->inbound)
	{
		put(&writer, ",\"direction\":\"out\"");
		if (data->encap)
		{
			put(&writer, ",\"peer_port\":%u", id->dst->get_port(id->dst));
		}
		if (follows)
		{
			put(&writer, ",\"follows\":%u", follows);
		}
	}
	put(&writer, "}}");
	*line = chunk_create((u_char*)writer.text, writer.len);
	if (complete && writer.len < writer.room)
	{
		return TRUE;
	}
	chunk_clear(line);
	return FALSE;
}
