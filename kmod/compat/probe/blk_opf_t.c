// SPDX-License-Identifier: GPL-2.0-only
/* 6.0: operation and flags of a bio have a type of their own. */
#include <linux/blk_types.h>
blk_opf_t probe(void);
blk_opf_t probe(void)
{
	return REQ_OP_READ | REQ_SYNC;
}
