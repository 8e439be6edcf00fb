/*
 * nf-core in the place of the kernel's IPsec.
 */
#ifndef NF_CORE_IPSEC_H_
#define NF_CORE_IPSEC_H_

#include <kernel/kernel_ipsec.h>

/**
 * Makes a kernel_ipsec_t by which charon allocates SPIs at nf-core and installs both halves of each CHILD_SA there.
 *
 * What nf-core doesn't do is accepted and left undone: it has no policies of charon's, as an SA's selectors go with it.
 */
kernel_ipsec_t *nf_core_ipsec_create();

#endif
