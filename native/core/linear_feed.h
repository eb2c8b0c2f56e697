/* SPDX-License-Identifier: Apache-2.0 */
/* Gated outputs of many tokens on their way into the next linear: int8 panels (linear.h), made of 32 columns at a time
 * while these are in L1. As floats they would be written by one thread and read by another. */
#ifndef INGOT_LINEAR_FEED_H
#define INGOT_LINEAR_FEED_H

#include "core/session.h"

/* A group of activations: tiles of gates and ups by turns. */
enum { INGOT_FEED_COLUMNS = 32, INGOT_FEED_TILES = 4 };

/** Whether a linear hands m tokens to the next one as panels, and not as rows. */
bool ingot_feed_active(const ingot_session *session, const ingot_step *step, uint32_t m);
/** The panels that gated linear `step` makes. They lie where its outputs would, at the end of them, because what is there
 * before is touched in any case. */
uint8_t *ingot_feed_panels(const ingot_session *session, const ingot_step *step);
/** From one of them to the next. */
size_t ingot_feed_panel_bytes(const ingot_session *session, const ingot_step *step);
/** Whether panels of any number of tokens fit where `width` floats of each are. */
bool ingot_feed_fits(uint32_t width);
/** Before the columns of a block are written to area->fed, (m, 32): what nobody will write becomes 0. */
void ingot_feed_begin(const ingot_session *session, const ingot_thread_area *area, const ingot_step *step, uint32_t m,
                      uint32_t block);
/** area->fed to block `block` of the panels; with the last one what follows it, up to the padded width. */
void ingot_feed_end(const ingot_session *session, const ingot_thread_area *area, const ingot_step *step, uint32_t m,
                    uint32_t block);

#endif
