/*
 * What bindgen reads: the headers of DPDK, and what it can't see in them by itself (function-like macros, bit fields,
 * offsets within anonymous unions). All of it is static, so that bindgen generates the C file with the wrappers.
 */
#ifndef DPDK_RS_SHIM_H
#define DPDK_RS_SHIM_H

#define ALLOW_EXPERIMENTAL_API

#include <stddef.h>
#include <stdint.h>

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

static inline int shim_tel_start_strings(struct rte_tel_data *array)
{
	return rte_tel_data_start_array(array, RTE_TEL_STRING_VAL);
}

#endif
