/*
 * What bindgen reads: the headers of DPDK, and what it can't see in them by itself (function-like macros, bit fields,
 * offsets within anonymous unions). All of it is static, so that bindgen generates the C file with the wrappers.
 */
#ifndef DPDK_RS_SHIM_H
#define DPDK_RS_SHIM_H

#define ALLOW_EXPERIMENTAL_API

#include <stddef.h>
#include <stdint.h>

#include <rte_crypto.h>
#include <rte_cryptodev.h>
#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_ip.h>
#include <rte_ip_frag.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_ring.h>
#include <rte_telemetry.h>
#include <rte_version.h>

/* Where the fields of an mbuf are, and that they have the width with which src/mbuf.rs reads them. */
#define SHIM_FIELD(NAME, field, type)                                                                                  \
	_Static_assert(sizeof(((struct rte_mbuf *)0)->field) == sizeof(type), "width of rte_mbuf." #field);            \
	static const size_t SHIM_MBUF_##NAME = offsetof(struct rte_mbuf, field)

SHIM_FIELD(BUF_ADDR, buf_addr, void *);
SHIM_FIELD(DATA_OFF, data_off, uint16_t);
SHIM_FIELD(REFCNT, refcnt, uint16_t);
SHIM_FIELD(NB_SEGS, nb_segs, uint16_t);
SHIM_FIELD(PORT, port, uint16_t);
SHIM_FIELD(OL_FLAGS, ol_flags, uint64_t);
SHIM_FIELD(PKT_LEN, pkt_len, uint32_t);
SHIM_FIELD(DATA_LEN, data_len, uint16_t);
SHIM_FIELD(VLAN_TCI, vlan_tci, uint16_t);
SHIM_FIELD(RSS_HASH, hash.rss, uint32_t);
SHIM_FIELD(BUF_LEN, buf_len, uint16_t);
SHIM_FIELD(NEXT, next, struct rte_mbuf *);

static const size_t SHIM_MBUF_SIZE = sizeof(struct rte_mbuf);
static const uint16_t SHIM_MBUF_PORT_INVALID = RTE_MBUF_PORT_INVALID;

static const uint64_t SHIM_F_NOT_DIRECT = RTE_MBUF_F_INDIRECT | RTE_MBUF_F_EXTERNAL;
static const uint64_t SHIM_F_RSS_HASH = RTE_MBUF_F_RX_RSS_HASH;
static const uint64_t SHIM_F_VLAN_STRIPPED = RTE_MBUF_F_RX_VLAN | RTE_MBUF_F_RX_VLAN_STRIPPED;
static const uint64_t SHIM_F_IP_CKSUM_MASK = RTE_MBUF_F_RX_IP_CKSUM_MASK;
static const uint64_t SHIM_F_IP_CKSUM_GOOD = RTE_MBUF_F_RX_IP_CKSUM_GOOD;
static const uint64_t SHIM_F_IP_CKSUM_BAD = RTE_MBUF_F_RX_IP_CKSUM_BAD;
static const uint64_t SHIM_F_L4_CKSUM_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t SHIM_F_L4_CKSUM_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t SHIM_F_L4_CKSUM_BAD = RTE_MBUF_F_RX_L4_CKSUM_BAD;

static const uint64_t SHIM_RX_VLAN_STRIP = RTE_ETH_RX_OFFLOAD_VLAN_STRIP;
static const uint64_t SHIM_RX_IPV4_CKSUM = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
static const uint64_t SHIM_RX_UDP_CKSUM = RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint64_t SHIM_RX_TCP_CKSUM = RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
static const uint64_t SHIM_RX_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t SHIM_RX_RSS_HASH = RTE_ETH_RX_OFFLOAD_RSS_HASH;
static const uint64_t SHIM_TX_VLAN_INSERT = RTE_ETH_TX_OFFLOAD_VLAN_INSERT;
static const uint64_t SHIM_TX_IPV4_CKSUM = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
static const uint64_t SHIM_TX_UDP_CKSUM = RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
static const uint64_t SHIM_TX_TCP_CKSUM = RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
static const uint64_t SHIM_TX_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;

static const uint64_t SHIM_RSS_IP = RTE_ETH_RSS_IP;
static const uint64_t SHIM_RSS_UDP = RTE_ETH_RSS_UDP;
static const uint64_t SHIM_RSS_ESP = RTE_ETH_RSS_ESP;
static const uint32_t SHIM_MQ_RX_RSS = RTE_ETH_MQ_RX_RSS;

static const unsigned int SHIM_RING_FLAGS = RING_F_SP_ENQ | RING_F_SC_DEQ | RING_F_EXACT_SZ;

/* rte_errno is a thread-local behind a macro. */
static inline int shim_errno(void)
{
	return rte_errno;
}

/* The fields are bit fields: 7 bits for l2_len, 9 bits for l3_len. */
static inline void shim_set_header_lengths(struct rte_mbuf *m, uint8_t l2_len, uint16_t l3_len)
{
	m->l2_len = l2_len;
	m->l3_len = l3_len;
}

/*
 * Cuts the first packet off a chain of packets, each of one segment, that rte_ip_frag has made, and gives the rest. The library
 * hides the headers of each packet that it chains to another (is_chained); they are still in its buffer.
 */
static inline struct rte_mbuf *shim_cut_fragment(struct rte_mbuf *m, int is_chained)
{
	struct rte_mbuf *rest = m->next;

	if (is_chained) {
		uint16_t headers = m->l2_len + m->l3_len;

		m->data_off -= headers;
		m->data_len += headers;
	}
	m->next = NULL;
	m->nb_segs = 1;
	m->pkt_len = m->data_len;
	return rest;
}

/* struct rte_eth_link is made of bit fields, and became a union in 24.07. */
static inline int shim_link_get(uint16_t port, uint32_t *mbit_per_s, int *up, int *full_duplex)
{
	struct rte_eth_link link = {0};
	int ret = rte_eth_link_get_nowait(port, &link);

	*mbit_per_s = link.link_speed;
	*up = link.link_status == RTE_ETH_LINK_UP;
	*full_duplex = link.link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
	return ret;
}

/* Renamed from _u64 to _uint in 23.03. */
static inline int shim_tel_add_dict_u64(struct rte_tel_data *dict, const char *name, uint64_t value)
{
#if RTE_VERSION >= RTE_VERSION_NUM(23, 3, 0, 0)
	return rte_tel_data_add_dict_uint(dict, name, value);
#else
	return rte_tel_data_add_dict_u64(dict, name, value);
#endif
}

static inline int shim_tel_start_u64s(struct rte_tel_data *array)
{
#if RTE_VERSION >= RTE_VERSION_NUM(23, 3, 0, 0)
	return rte_tel_data_start_array(array, RTE_TEL_UINT_VAL);
#else
	return rte_tel_data_start_array(array, RTE_TEL_U64_VAL);
#endif
}

static inline int shim_tel_add_u64(struct rte_tel_data *array, uint64_t value)
{
#if RTE_VERSION >= RTE_VERSION_NUM(23, 3, 0, 0)
	return rte_tel_data_add_array_uint(array, value);
#else
	return rte_tel_data_add_array_u64(array, value);
#endif
}

/* What a session's operations do. Keys are read by the calls that take this, and not kept. */
struct shim_crypto_transform {
	int cipher; /* an algorithm below, or 0 for none */
	int auth; /* likewise */
	int seals; /* 0 to verify and decrypt, 1 to encrypt and make ICVs */
	const uint8_t *key;
	const uint8_t *auth_key;
	uint16_t key_len;
	uint16_t auth_key_len;
	uint16_t iv_len;
	uint16_t aad_len;
	uint16_t icv_len;
};

#define SHIM_CRYPTO_AES_GCM 1
#define SHIM_CRYPTO_CHACHA20_POLY1305 2
#define SHIM_CRYPTO_AES_CBC 3
#define SHIM_CRYPTO_HMAC_SHA1 1
#define SHIM_CRYPTO_HMAC_SHA256 2
#define SHIM_CRYPTO_HMAC_SHA384 3
#define SHIM_CRYPTO_HMAC_SHA512 4

#define SHIM_CRYPTO_MAX_IV 16
#define SHIM_CRYPTO_MAX_AAD 16
#define SHIM_CRYPTO_MAX_ICV 64

/* Behind each operation, where drivers reach it as they reach the operation. */
struct shim_crypto_private {
	uint8_t iv[SHIM_CRYPTO_MAX_IV];
	uint8_t aad[SHIM_CRYPTO_MAX_AAD];
	uint8_t icv[SHIM_CRYPTO_MAX_ICV];
	uint64_t slot;
};

/* What one operation works on: offsets from the start of the packet's data. */
struct shim_crypto_work {
	uint32_t cipher_at;
	uint32_t cipher_len;
	uint32_t auth_at;
	uint32_t auth_len;
	uint8_t iv[SHIM_CRYPTO_MAX_IV];
	uint8_t aad[SHIM_CRYPTO_MAX_AAD];
	uint8_t icv[SHIM_CRYPTO_MAX_ICV];
};

static const size_t SHIM_CRYPTO_PRIVATE_SIZE = sizeof(struct shim_crypto_private);
static const uint8_t SHIM_CRYPTO_NOT_PROCESSED = RTE_CRYPTO_OP_STATUS_NOT_PROCESSED;
static const uint8_t SHIM_CRYPTO_SUCCESS = RTE_CRYPTO_OP_STATUS_SUCCESS;
static const uint8_t SHIM_CRYPTO_AUTH_FAILED = RTE_CRYPTO_OP_STATUS_AUTH_FAILED;
static const uint32_t SHIM_CRYPTO_IV_OFFSET = sizeof(struct rte_crypto_op) + sizeof(struct rte_crypto_sym_op);

static inline struct shim_crypto_private *shim_crypto_private(struct rte_crypto_op *op)
{
	return rte_crypto_op_ctod_offset(op, struct shim_crypto_private *, SHIM_CRYPTO_IV_OFFSET);
}

static inline enum rte_crypto_auth_algorithm shim_crypto_auth(int auth)
{
	static const enum rte_crypto_auth_algorithm algorithms[] = {
		RTE_CRYPTO_AUTH_NULL,	     RTE_CRYPTO_AUTH_SHA1_HMAC,	  RTE_CRYPTO_AUTH_SHA256_HMAC,
		RTE_CRYPTO_AUTH_SHA384_HMAC, RTE_CRYPTO_AUTH_SHA512_HMAC,
	};

	return algorithms[auth];
}

static inline int shim_crypto_is_aead(const struct shim_crypto_transform *t)
{
	return t->cipher == SHIM_CRYPTO_AES_GCM || t->cipher == SHIM_CRYPTO_CHACHA20_POLY1305;
}

static inline enum rte_crypto_aead_algorithm shim_crypto_aead(const struct shim_crypto_transform *t)
{
	return t->cipher == SHIM_CRYPTO_AES_GCM ? RTE_CRYPTO_AEAD_AES_GCM : RTE_CRYPTO_AEAD_CHACHA20_POLY1305;
}

/* 0, or what the device lacks: 1 for the algorithm, 2 for one of its lengths. */
static inline int shim_crypto_lacks(uint8_t dev, const struct shim_crypto_transform *t)
{
	struct rte_cryptodev_sym_capability_idx idx = {0};
	const struct rte_cryptodev_symmetric_capability *found;

	if (shim_crypto_is_aead(t)) {
		idx.type = RTE_CRYPTO_SYM_XFORM_AEAD;
		idx.algo.aead = shim_crypto_aead(t);
		found = rte_cryptodev_sym_capability_get(dev, &idx);
		if (!found)
			return 1;
		return rte_cryptodev_sym_capability_check_aead(found, t->key_len, t->icv_len, t->aad_len, t->iv_len) ? 2 : 0;
	}
	if (t->cipher) {
		idx.type = RTE_CRYPTO_SYM_XFORM_CIPHER;
		idx.algo.cipher = RTE_CRYPTO_CIPHER_AES_CBC;
		found = rte_cryptodev_sym_capability_get(dev, &idx);
		if (!found)
			return 1;
		if (rte_cryptodev_sym_capability_check_cipher(found, t->key_len, t->iv_len))
			return 2;
	}
	idx.type = RTE_CRYPTO_SYM_XFORM_AUTH;
	idx.algo.auth = shim_crypto_auth(t->auth);
	found = rte_cryptodev_sym_capability_get(dev, &idx);
	if (!found)
		return 1;
	return rte_cryptodev_sym_capability_check_auth(found, t->auth_key_len, t->icv_len, 0) ? 2 : 0;
}

/*
 * A session that verifies and decrypts, or one that encrypts and makes ICVs; NULL with rte_errno set. What is
 * authenticated is the ciphertext: so the receiver verifies first, and the sender encrypts first.
 */
static inline void *shim_crypto_session_create(uint8_t dev, const struct shim_crypto_transform *t,
					       struct rte_mempool *pool)
{
#if RTE_VERSION >= RTE_VERSION_NUM(22, 11, 0, 0)
	struct rte_crypto_sym_xform cipher = {0}, auth = {0};
	struct rte_crypto_sym_xform *first = &auth;

	if (shim_crypto_is_aead(t)) {
		cipher.type = RTE_CRYPTO_SYM_XFORM_AEAD;
		cipher.aead.op = t->seals ? RTE_CRYPTO_AEAD_OP_ENCRYPT : RTE_CRYPTO_AEAD_OP_DECRYPT;
		cipher.aead.algo = shim_crypto_aead(t);
		cipher.aead.key.data = t->key;
		cipher.aead.key.length = t->key_len;
		cipher.aead.iv.offset = SHIM_CRYPTO_IV_OFFSET;
		cipher.aead.iv.length = t->iv_len;
		cipher.aead.digest_length = t->icv_len;
		cipher.aead.aad_length = t->aad_len;
		return rte_cryptodev_sym_session_create(dev, &cipher, pool);
	}
	auth.type = RTE_CRYPTO_SYM_XFORM_AUTH;
	auth.auth.op = t->seals ? RTE_CRYPTO_AUTH_OP_GENERATE : RTE_CRYPTO_AUTH_OP_VERIFY;
	auth.auth.algo = shim_crypto_auth(t->auth);
	auth.auth.key.data = t->auth_key;
	auth.auth.key.length = t->auth_key_len;
	auth.auth.digest_length = t->icv_len;
	if (t->cipher) {
		cipher.type = RTE_CRYPTO_SYM_XFORM_CIPHER;
		cipher.cipher.op = t->seals ? RTE_CRYPTO_CIPHER_OP_ENCRYPT : RTE_CRYPTO_CIPHER_OP_DECRYPT;
		cipher.cipher.algo = RTE_CRYPTO_CIPHER_AES_CBC;
		cipher.cipher.key.data = t->key;
		cipher.cipher.key.length = t->key_len;
		cipher.cipher.iv.offset = SHIM_CRYPTO_IV_OFFSET;
		cipher.cipher.iv.length = t->iv_len;
		first = t->seals ? &cipher : &auth;
		first->next = t->seals ? &auth : &cipher;
	}
	return rte_cryptodev_sym_session_create(dev, first, pool);
#else
	rte_errno = ENOTSUP;
	return NULL;
#endif
}

/*
 * Frees a session, and writes zeros over what its driver kept there: some drivers leave keys. The first cache line of
 * a session is the library's own.
 */
static inline void shim_crypto_session_free(uint8_t dev, void *session, const struct rte_mempool *pool)
{
#if RTE_VERSION >= RTE_VERSION_NUM(22, 11, 0, 0)
	volatile uint8_t *memory = session;

	rte_cryptodev_sym_session_free(dev, session);
	for (uint32_t i = RTE_CACHE_LINE_SIZE; i < pool->elt_size; i++)
		memory[i] = 0;
#endif
}

static inline int shim_crypto_configure(uint8_t dev, uint16_t queue_pairs, int socket)
{
	struct rte_cryptodev_config config = {
		.socket_id = socket,
		.nb_queue_pairs = queue_pairs,
		.ff_disable = RTE_CRYPTODEV_FF_ASYMMETRIC_CRYPTO | RTE_CRYPTODEV_FF_SECURITY,
	};

	return rte_cryptodev_configure(dev, &config);
}

static inline int shim_crypto_queue_pair_setup(uint8_t dev, uint16_t queue_pair, uint32_t descriptors,
					       struct rte_mempool *sessions, int socket)
{
	struct rte_cryptodev_qp_conf config = {.nb_descriptors = descriptors, .mp_session = sessions};

	return rte_cryptodev_queue_pair_setup(dev, queue_pair, &config, socket);
}

static inline struct rte_mempool *shim_crypto_op_pool(const char *name, unsigned int count, int socket)
{
	return rte_crypto_op_pool_create(name, RTE_CRYPTO_OP_TYPE_SYMMETRIC, count, 0, sizeof(struct shim_crypto_private),
					 socket);
}

static inline struct rte_crypto_op *shim_crypto_op_alloc(struct rte_mempool *pool, uint64_t slot)
{
	struct rte_crypto_op *op = rte_crypto_op_alloc(pool, RTE_CRYPTO_OP_TYPE_SYMMETRIC);

	if (op)
		shim_crypto_private(op)->slot = slot;
	return op;
}

static inline void shim_crypto_op_free(struct rte_crypto_op *op)
{
	rte_crypto_op_free(op);
}

static inline uint64_t shim_crypto_op_slot(struct rte_crypto_op *op)
{
	return shim_crypto_private(op)->slot;
}

static inline uint8_t shim_crypto_op_status(const struct rte_crypto_op *op)
{
	return op->status;
}

/* Copies the ICV that a session has made. It is made here and not in the packet, as some drivers write a whole tag. */
static inline void shim_crypto_op_icv(struct rte_crypto_op *op, uint8_t *to, uint8_t len)
{
	memcpy(to, shim_crypto_private(op)->icv, len);
}

static inline struct rte_mbuf *shim_crypto_op_take_packet(struct rte_crypto_op *op)
{
	struct rte_mbuf *packet = op->sym->m_src;

	op->sym->m_src = NULL;
	return packet;
}

/* Makes an operation ready to be enqueued. The packet's data must hold what the work names. */
static inline void shim_crypto_op_prepare(struct rte_crypto_op *op, struct rte_mbuf *packet, void *session, int is_aead,
					  const struct shim_crypto_work *work)
{
	struct shim_crypto_private *own = shim_crypto_private(op);
	rte_iova_t own_iova = rte_crypto_op_ctophys_offset(op, SHIM_CRYPTO_IV_OFFSET);
	uint64_t slot = own->slot;

	__rte_crypto_op_reset(op, RTE_CRYPTO_OP_TYPE_SYMMETRIC);
	own->slot = slot;
	memcpy(own->iv, work->iv, sizeof(own->iv));
	memcpy(own->aad, work->aad, sizeof(own->aad));
	memcpy(own->icv, work->icv, sizeof(own->icv));
	op->sess_type = RTE_CRYPTO_OP_WITH_SESSION;
	op->sym->session = session;
	op->sym->m_src = packet;
	if (is_aead) {
		op->sym->aead.data.offset = work->cipher_at;
		op->sym->aead.data.length = work->cipher_len;
		op->sym->aead.digest.data = own->icv;
		op->sym->aead.digest.phys_addr = own_iova + offsetof(struct shim_crypto_private, icv);
		op->sym->aead.aad.data = own->aad;
		op->sym->aead.aad.phys_addr = own_iova + offsetof(struct shim_crypto_private, aad);
		return;
	}
	op->sym->cipher.data.offset = work->cipher_at;
	op->sym->cipher.data.length = work->cipher_len;
	op->sym->auth.data.offset = work->auth_at;
	op->sym->auth.data.length = work->auth_len;
	op->sym->auth.digest.data = own->icv;
	op->sym->auth.digest.phys_addr = own_iova + offsetof(struct shim_crypto_private, icv);
}

static inline int shim_tel_start_strings(struct rte_tel_data *array)
{
	return rte_tel_data_start_array(array, RTE_TEL_STRING_VAL);
}

#endif
