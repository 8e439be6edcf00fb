/* What bindgen reads. Static inlines among it are wrapped by a shim that bindgen writes. */
#include <rte_eal.h>
#include <rte_version.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_launch.h>
#include <rte_cycles.h>
#include <rte_mempool.h>
#include <rte_mbuf.h>
#include <rte_ring.h>
#include <rte_dev.h>
#include <rte_ethdev.h>
#include <rte_ip.h>
#include <rte_ip_frag.h>
#include <rte_telemetry.h>

/* rte_errno is a macro over a thread-local variable, which bindgen can't see. */
static inline int
dpdk_errno(void)
{
	return rte_errno;
}

/* Function-like macros stand behind these, which bindgen can't evaluate. */
static const uint64_t DPDK_RSS_FLOWS = RTE_ETH_RSS_IP | RTE_ETH_RSS_UDP | RTE_ETH_RSS_ESP;
static const uint64_t DPDK_RSS_ESP = RTE_ETH_RSS_ESP;
