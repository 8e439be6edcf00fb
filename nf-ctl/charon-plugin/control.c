#include "control.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <daemon.h>
#include <threading/mutex.h>
#include <threading/thread.h>

/**
 * Seconds to wait for an answer: longer than nf-core's server waits for its control thread, so that its own word on the
 * delay arrives.
 */
#define PATIENCE 25

/** The longest line that is taken. Answers about one SA are far shorter. */
#define MAX_LINE (1 << 20)

typedef struct private_control_t private_control_t;

struct private_control_t {
	control_t public;
	/** One request at a time. */
	mutex_t *mutex;
	char *path;
	bool quiet;
	/** -1 while there is no connection. */
	int fd;
	/** What has come and wasn't taken yet. */
	char *received;
	size_t len;
	size_t room;
};

static void hang_up(private_control_t *this)
{
	if (this->fd != -1)
	{
		close(this->fd);
		this->fd = -1;
	}
	this->len = 0;
}

static bool dial(private_control_t *this)
{
	struct sockaddr_un addr = {
		.sun_family = AF_UNIX,
	};
	struct timeval patience = {
		.tv_sec = PATIENCE,
	};
	int fd;

	if (this->fd != -1)
	{
		return TRUE;
	}
	if (strlen(this->path) >= sizeof(addr.sun_path))
	{
		DBG1(DBG_KNL, "%s is too long for a socket's path; see charon.plugins.kernel-nf-core.socket", this->path);
		return FALSE;
	}
	strcpy(addr.sun_path, this->path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd == -1)
	{
		DBG1(DBG_KNL, "no socket for nf-core: %s", strerror(errno));
		return FALSE;
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr*)&addr, sizeof(addr)) == -1)
	{
		if (!this->quiet)
		{
			DBG1(DBG_KNL, "no nf-core at %s: %s; is it running, and is charon.plugins.kernel-nf-core.socket its "
				 "[control] socket?", this->path, strerror(errno));
		}
		close(fd);
		return FALSE;
	}
	this->fd = fd;
	return TRUE;
}

/** Sends all of it. A daemon that is gone is an error, not a signal. */
static bool send_all(private_control_t *this, chunk_t data)
{
	ssize_t sent;

	while (data.len)
	{
		sent = send(this->fd, data.ptr, data.len, MSG_NOSIGNAL);
		if (sent == -1 && errno == EINTR)
		{
			continue;
		}
		if (sent <= 0)
		{
			return FALSE;
		}
		data = chunk_skip(data, sent);
	}
	return TRUE;
}

/** Waits for a line, and takes it. `forever`: for as long as it takes, at a cancellation point. */
static json_object *receive(private_control_t *this, bool forever)
{
	json_object *object;
	char *end;
	ssize_t got;
	size_t line;
	bool old;

	while (!(end = memchr(this->received, '\n', this->len)))
	{
		if (this->len == this->room)
		{
			if (this->room == MAX_LINE)
			{
				DBG1(DBG_KNL, "nf-core at %s sends lines without an end", this->path);
				return NULL;
			}
			this->room *= 2;
			this->received = realloc(this->received, this->room);
		}
		old = thread_cancelability(forever);
		got = recv(this->fd, this->received + this->len, this->room - this->len, 0);
		thread_cancelability(old);
		if (got == -1 && (errno == EINTR || (forever && (errno == EAGAIN || errno == EWOULDBLOCK))))
		{
			continue;
		}
		if (got <= 0)
		{
			return NULL;
		}
		this->len += got;
	}
	*end = '\0';
	object = json_tokener_parse(this->received);
	line = end - this->received + 1;
	this->len -= line;
	memmove(this->received, this->received + line, this->len);
	return object;
}

/** Sends a line with its newline, and gives the answer to it. */
static json_object *exchange(private_control_t *this, chunk_t line)
{
	if (!dial(this))
	{
		return NULL;
	}
	/* what a daemon says before it hangs up is worth reading */
	if (send_all(this, line) && send_all(this, chunk_from_chars('\n')))
	{
		return receive(this, FALSE);
	}
	return NULL;
}

METHOD(control_t, call, control_result_t,
	private_control_t *this, chunk_t line, const char *what, json_object **answer)
{
	control_result_t result = CONTROL_LOST;
	json_object *object, *content;
	bool reused;

	this->mutex->lock(this->mutex);
	reused = this->fd != -1;
	object = exchange(this, line);
	if (!object && reused)
	{	/* of a daemon that has been restarted since */
		hang_up(this);
		object = exchange(this, line);
	}
	if (object && json_object_object_get_ex(object, "ok", &content))
	{
		result = CONTROL_OK;
	}
	else if (object && json_object_object_get_ex(object, "error", &content))
	{
		DBG1(DBG_KNL, "nf-core could not %s: %s", what, json_object_get_string(content));
		result = CONTROL_REFUSED;
	}
	else
	{
		if (this->fd != -1)
		{
			DBG1(DBG_KNL, "nf-core at %s could not be asked to %s: it doesn't answer; its log says why",
				 this->path, what);
		}
		hang_up(this);
	}
	if (answer && result != CONTROL_LOST)
	{
		*answer = json_object_get(content);
	}
	this->mutex->unlock(this->mutex);
	json_object_put(object);
	return result;
}

METHOD(control_t, next, json_object*,
	private_control_t *this)
{
	json_object *line;

	if (this->fd == -1)
	{
		return NULL;
	}
	line = receive(this, TRUE);
	if (!line)
	{
		hang_up(this);
	}
	return line;
}

METHOD(control_t, is_open, bool,
	private_control_t *this)
{
	return this->fd != -1;
}

METHOD(control_t, destroy, void,
	private_control_t *this)
{
	hang_up(this);
	this->mutex->destroy(this->mutex);
	free(this->received);
	free(this->path);
	free(this);
}

control_t *control_create(const char *path, bool quiet)
{
	private_control_t *this;

	INIT(this,
		.public = {
			.call = _call,
			.next = _next,
			.is_open = _is_open,
			.destroy = _destroy,
		},
		.mutex = mutex_create(MUTEX_TYPE_DEFAULT),
		.path = strdup(path),
		.quiet = quiet,
		.fd = -1,
		.room = 4096,
	);
	this->received = malloc(this->room);
	return &this->public;
}
