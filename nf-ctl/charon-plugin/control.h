/*
 * A client of nf-core's control socket: a line of JSON each way.
 */
#ifndef NF_CORE_CONTROL_H_
#define NF_CORE_CONTROL_H_

#include <json-c/json.h>
#include <utils/chunk.h>

/** Where nf-core listens unless charon.plugins.kernel-nf-core.socket says otherwise. */
#define NF_CORE_SOCKET "/run/nf-core/nf-core.sock"

typedef struct control_t control_t;
typedef enum control_result_t control_result_t;

/** What became of a request. */
enum control_result_t {
	/** Done. */
	CONTROL_OK,
	/** nf-core refuses, and said why. */
	CONTROL_REFUSED,
	/** nf-core isn't there, or went away: it isn't known what became of the request. */
	CONTROL_LOST,
};

/**
 * A connection to nf-core. It is opened by the first request, and anew after it broke. Each thread that waits for something
 * else than an answer, such as events, needs one of its own.
 */
struct control_t {

	/**
	 * Sends a request and waits for its answer. What goes wrong is logged.
	 *
	 * @param line		request, a line without its newline; may hold keys, and isn't kept or logged
	 * @param what		for the log, "add the SA"
	 * @param answer	receives the content of the answer, or why it was refused; may be NULL, else to be given back by
	 *					json_object_put()
	 */
	control_result_t (*call)(control_t *this, chunk_t line, const char *what, json_object **answer);

	/**
	 * Waits for the next line that nf-core sends by itself. The thread can be cancelled meanwhile.
	 *
	 * @return			the line, to be given back by json_object_put(); NULL when the connection is gone
	 */
	json_object *(*next)(control_t *this);

	/** Whether a connection is open; it may break with the next request all the same. */
	bool (*is_open)(control_t *this);

	/** Closes it. */
	void (*destroy)(control_t *this);
};

/**
 * Prepares a connection.
 *
 * @param path			nf-core's control socket
 * @param quiet			TRUE not to log that nf-core isn't there: for who tries again and again
 */
control_t *control_create(const char *path, bool quiet);

#endif
