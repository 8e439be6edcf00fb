/*
 * A half of a CHILD_SA in nf-core's words.
 */
#ifndef NF_CORE_SA_REQUEST_H_
#define NF_CORE_SA_REQUEST_H_

#include <kernel/kernel_ipsec.h>

/**
 * Writes the request by which nf-core installs an SA.
 *
 * @param id			the SA
 * @param data			its algorithms, keys and selectors
 * @param follows		SPI, in host order, of the inbound SA that this outbound one follows; 0 for none
 * @param[out] line		request, without a newline; it holds keys: to be freed by chunk_clear()
 * @return				FALSE if nf-core has no such SAs; why was logged
 */
bool sa_request(kernel_ipsec_sa_id_t *id, kernel_ipsec_add_sa_t *data, uint32_t follows, chunk_t *line);

#endif
