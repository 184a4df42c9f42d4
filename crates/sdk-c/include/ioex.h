/*
 * ioeX Peer Node SDK: a device's node inside its maker's firmware.
 *
 * How it is used: docs/sdk.md; a complete program: examples/firmware.c.
 * Written by cbindgen from the crate ioex-sdk-c: do not edit.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#ifndef IOEX_H
#define IOEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of this header; `ioex_version()` is that of the library. */
#define IOEX_VERSION_MAJOR 0
#define IOEX_VERSION_MINOR 1
#define IOEX_VERSION_PATCH 0
#define IOEX_VERSION "0.1.0"

/**
 * Where an update stands.
 */
typedef enum ioex_stage {
  /**
   * Nothing to do.
   */
  IOEX_STAGE_IDLE = 0,
  /**
   * A version is offered.
   */
  IOEX_STAGE_OFFERED = 1,
  /**
   * It is being fetched.
   */
  IOEX_STAGE_FETCHING = 2,
  /**
   * It is here.
   */
  IOEX_STAGE_FETCHED = 3,
  /**
   * It is being written.
   */
  IOEX_STAGE_INSTALLING = 4,
  /**
   * It is written, and waits for its start or is on trial.
   */
  IOEX_STAGE_INSTALLED = 5,
} ioex_stage;

/**
 * Why an update waits, why it ended, or why a call about it could not be done: `reason` says it for people. Values may be
 * added: take one that you do not know for `IOEX_REASON_OTHER`.
 */
typedef enum ioex_reason {
  /**
   * There is nothing to say.
   */
  IOEX_REASON_NONE = 0,
  /**
   * None of the others.
   */
  IOEX_REASON_OTHER = 1,
  /**
   * It waits: the node is not in the network.
   */
  IOEX_REASON_NETWORK = 2,
  /**
   * It waits: nobody has given out the channel, or what came does not hold.
   */
  IOEX_REASON_CHANNEL = 3,
  /**
   * It waits: its owner is asked.
   */
  IOEX_REASON_OWNER = 4,
  /**
   * It waits: its owner said no, and may still say yes.
   */
  IOEX_REASON_DECLINED = 5,
  /**
   * It waits for the owner's hours.
   */
  IOEX_REASON_HOURS = 6,
  /**
   * It waits for the battery.
   */
  IOEX_REASON_BATTERY = 7,
  /**
   * It waits for a link that is not metered.
   */
  IOEX_REASON_METERED = 8,
  /**
   * It waits for the next month: its bytes are used up.
   */
  IOEX_REASON_CAP = 9,
  /**
   * It waits for the rollout.
   */
  IOEX_REASON_ROLLOUT = 10,
  /**
   * It waits: its maker paused the rollout.
   */
  IOEX_REASON_ROLLOUT_PAUSED = 11,
  /**
   * It waits: its maker ended the rollout.
   */
  IOEX_REASON_ROLLOUT_ENDED = 12,
  /**
   * It waits: nobody hands the version out any more.
   */
  IOEX_REASON_NO_PROVIDER = 13,
  /**
   * It waits for the next try, after one that failed.
   */
  IOEX_REASON_RETRY = 14,
  /**
   * It waits for the word that lets it be tried again: it failed on this device.
   */
  IOEX_REASON_FAILED_BEFORE = 15,
  /**
   * It waits for the next start of the device or program.
   */
  IOEX_REASON_START = 16,
  /**
   * It waits for the word of the program that runs it.
   */
  IOEX_REASON_CONFIRM = 17,
  /**
   * The last step broke off, and is tried again.
   */
  IOEX_REASON_BROKEN_OFF = 18,
  /**
   * It ended: it does not fit this device.
   */
  IOEX_REASON_DOES_NOT_FIT = 19,
  /**
   * It ended: it could not be fetched.
   */
  IOEX_REASON_NOT_FETCHED = 20,
  /**
   * It ended: it could not be written or put in charge.
   */
  IOEX_REASON_NOT_INSTALLED = 21,
  /**
   * It ended: it is unhealthy.
   */
  IOEX_REASON_UNHEALTHY = 22,
  /**
   * It ended: nobody confirmed it in time.
   */
  IOEX_REASON_NOT_CONFIRMED = 23,
  /**
   * It ended: it did not stay up.
   */
  IOEX_REASON_DID_NOT_STAY = 24,
  /**
   * It ended: the program, or its owner, went back.
   */
  IOEX_REASON_TAKEN_BACK = 25,
  /**
   * The call: the metadata does not hold.
   */
  IOEX_REASON_REFUSED = 26,
  /**
   * The call: something newer came, or the node stopped.
   */
  IOEX_REASON_SUPERSEDED = 27,
  /**
   * The call: nothing is on trial.
   */
  IOEX_REASON_NOT_ON_TRIAL = 28,
  /**
   * The call: reading or writing failed.
   */
  IOEX_REASON_DISK = 29,
  /**
   * It waits for room on a disk.
   */
  IOEX_REASON_ROOM = 30,
} ioex_reason;

/**
 * What a call answers. `ioex_last_error_message` says more.
 */
typedef enum ioex_status {
  /**
   * It is done, or, where the call's description says so, will be.
   */
  IOEX_STATUS_OK = 0,
  /**
   * An argument or the configuration makes no sense.
   */
  IOEX_STATUS_INVALID = 1,
  /**
   * The node or its threads could not be started.
   */
  IOEX_STATUS_START = 2,
  /**
   * The node is starting: wait for `IOEX_EVENT_KIND_STARTED`.
   */
  IOEX_STATUS_NOT_READY = 3,
  /**
   * The node has stopped.
   */
  IOEX_STATUS_STOPPED = 4,
  /**
   * No version is offered to this device.
   */
  IOEX_STATUS_NOTHING_OFFERED = 5,
  /**
   * The metadata does not hold.
   */
  IOEX_STATUS_REFUSED = 6,
  /**
   * Reading or writing failed.
   */
  IOEX_STATUS_IO = 7,
  /**
   * Not from the callback.
   */
  IOEX_STATUS_IN_CALLBACK = 8,
  /**
   * A fault of the library.
   */
  IOEX_STATUS_PANIC = 9,
  /**
   * The answer is about another version, or another package of it, than the one that is offered now.
   */
  IOEX_STATUS_OUTDATED = 10,
} ioex_status;

/**
 * What happened. Values may be added: leave alone what you do not know.
 */
typedef enum ioex_event_kind {
  /**
   * Something that this header does not know.
   */
  IOEX_EVENT_KIND_OTHER = 0,
  /**
   * The node runs. `uid` is the device's key, which its maker puts on the roster.
   */
  IOEX_EVENT_KIND_STARTED = 1,
  /**
   * A version is there for this device: `version`, `manifest`, `total_bytes`. With `asks`, it is fetched
   * only after `ioex_node_consent`. Told again after each start as long as it is not fetched and was not declined,
   * and after `ioex_node_forgive`.
   */
  IOEX_EVENT_KIND_OFFERED = 2,
  /**
   * A package is being fetched or written (`stage`): `version`, `done_bytes` of `total_bytes`, and where
   * they came from.
   */
  IOEX_EVENT_KIND_PROGRESS = 3,
  /**
   * All of it is here and verified: `version`, `manifest`. With `asks`, it is installed only after
   * `ioex_node_consent`.
   */
  IOEX_EVENT_KIND_READY = 4,
  /**
   * `version` is written, and put in charge or ready for the device's next start. Without a `restart` command in
   * the configuration, start yourself anew now (`pair`: have the device start): the trial begins with the next
   * `ioex_node_start`.
   */
  IOEX_EVENT_KIND_INSTALLED = 5,
  /**
   * `version` runs, on trial: you are the one that was started anew, or the `restart` command has returned. With
   * `asks`, say `ioex_node_confirm` or `ioex_node_roll_back`. Told again after each start as long as it is.
   */
  IOEX_EVENT_KIND_TRIAL = 6,
  /**
   * `version` runs, and stays. This and `FAILED` are told again at the next start when the node ended before the
   * callback had returned from them.
   */
  IOEX_EVENT_KIND_CONFIRMED = 7,
  /**
   * `version` could not be fetched, written or kept: `code`, `reason`. With `rolled_back` the version before is in its
   * place again: start yourself anew, as after `INSTALLED`.
   */
  IOEX_EVENT_KIND_FAILED = 8,
  /**
   * What an update waits for, or why the last step has to be tried again: `code`, `reason`, and `version` and
   * `manifest` when it is about one. Told when that changes, not when a time runs down. With `IOEX_REASON_DECLINED`
   * a yes may still be said: `ioex_node_consent` with these.
   */
  IOEX_EVENT_KIND_WAITING = 9,
  /**
   * A call that had answered `IOEX_STATUS_OK` could not be done: `call`, `code`, `reason`.
   */
  IOEX_EVENT_KIND_CALL_FAILED = 10,
  /**
   * The callback took too long, and events were dropped: ask `ioex_node_state`.
   */
  IOEX_EVENT_KIND_MISSED = 11,
  /**
   * The node has ended: `reason`, or `NULL` when it was told to. The last event.
   */
  IOEX_EVENT_KIND_STOPPED = 12,
} ioex_event_kind;

/**
 * A device's node.
 */
typedef struct ioex_node ioex_node;

/**
 * How a device stands with its channel. Good until `ioex_state_free`. Members may be added at the end.
 */
typedef struct ioex_state {
  /**
   * Where an update stands.
   */
  enum ioex_stage stage;
  /**
   * Whether the owner agreed to what comes next, or is not asked.
   */
  bool consent;
  /**
   * The version that runs.
   */
  const char *running;
  /**
   * The version that is offered, fetched or installed, or `NULL`.
   */
  const char *offered;
  /**
   * Its address list, or `NULL`.
   */
  const char *manifest;
  /**
   * What it waits for, or `NULL`.
   */
  const char *holding;
  /**
   * What went wrong last, or `NULL`.
   */
  const char *problem;
  /**
   * Length of what is offered in bytes.
   */
  uint64_t bytes;
  /**
   * When the channel was looked at last, in seconds since 1970; 0: not yet.
   */
  uint64_t last_check;
  /**
   * Bytes that came for this version from the maker.
   */
  uint64_t from_maker;
  /**
   * From devices on the local network.
   */
  uint64_t from_local;
  /**
   * From other devices.
   */
  uint64_t from_others;
  /**
   * Of all these, over relays.
   */
  uint64_t over_relays;
  /**
   * Bytes for updates in this month, both ways.
   */
  uint64_t month_bytes;
  /**
   * What `holding` is, for programs; without that, what `problem` is.
   */
  enum ioex_reason code;
} ioex_state;

/**
 * Something that happened. It and its texts (UTF-8) are good until the callback returns. What an event has
 * nothing to say about is zero or `NULL`. Members may be added at the end.
 */
typedef struct ioex_event {
  /**
   * What.
   */
  enum ioex_event_kind kind;
  /**
   * During progress: fetching, installing or, at its very end, installed.
   */
  enum ioex_stage stage;
  /**
   * Whether the program has to answer.
   */
  bool asks;
  /**
   * Whether it was in charge, or about to be, and the version before is again.
   */
  bool rolled_back;
  /**
   * The device's key.
   */
  const char *uid;
  /**
   * Which version.
   */
  const char *version;
  /**
   * The version's address list.
   */
  const char *manifest;
  /**
   * Why.
   */
  const char *reason;
  /**
   * The call that failed: `take`, `confirm` or `roll-back`.
   */
  const char *call;
  /**
   * Bytes that are there, or written.
   */
  uint64_t done_bytes;
  /**
   * Of so many.
   */
  uint64_t total_bytes;
  /**
   * Bytes of this download that came from the maker.
   */
  uint64_t from_maker;
  /**
   * From devices on the local network.
   */
  uint64_t from_local;
  /**
   * From other devices.
   */
  uint64_t from_others;
  /**
   * Of all these, over relays.
   */
  uint64_t over_relays;
  /**
   * Nodes that are connected for it.
   */
  uint64_t neighbours;
  /**
   * What `reason` is, for programs.
   */
  enum ioex_reason code;
} ioex_event;

/**
 * Is told what happened. It is called on a thread of the library, never twice at the same time, and may call
 * everything but `ioex_node_free`. `user` is what `ioex_node_start` got. It must return, and not throw.
 */
typedef void (*ioex_callback)(const struct ioex_event *event, void *user);

/**
 * Bytes of the program's.
 */
typedef struct ioex_bytes {
  /**
   * Where they are; may be `NULL` when there are none.
   */
  const uint8_t *data;
  /**
   * How many.
   */
  size_t len;
} ioex_bytes;

/**
 * A channel's files, as the maker's own centre or its Monitor has them.
 */
typedef struct ioex_channel_files {
  /**
   * Roots, in order; those that the device knows may be among them, or not. A device takes at most 32 at once.
   * May be `NULL` when there are none.
   */
  const struct ioex_bytes *roots;
  /**
   * How many.
   */
  size_t roots_len;
  /**
   * `timestamp.json`.
   */
  struct ioex_bytes timestamp;
  /**
   * The snapshot that it names.
   */
  struct ioex_bytes snapshot;
  /**
   * The targets metadata that the snapshot names.
   */
  struct ioex_bytes targets;
} ioex_channel_files;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * What the last call on this thread that did not answer `IOEX_STATUS_OK` had to say, for people, in UTF-8. Never
 * `NULL`. Good until the next call on this thread fails, or the thread ends.
 */
const char *ioex_last_error_message(void);

/**
 * Frees what `ioex_node_state` gave; `NULL` is nothing.
 *
 * The caller's word:
 * `state` is `NULL`, or came from `ioex_node_state` and was not freed.
 */
void ioex_state_free(struct ioex_state *state);

/**
 * The library's version, such as `0.1.0`. Good for ever.
 */
const char *ioex_version(void);

/**
 * Writes the log to stderr from now on, filtered by the variable `IOEX_LOG` (such as `warn,ioex=debug`). Without
 * this call there is no log.
 */
enum ioex_status ioex_log_to_stderr(void);

/**
 * Starts a node and returns at once. `config_toml` is the text of a configuration, as `ioex node` has it; it
 * names the folder `data` and has a section `[ota]`. Relative paths in it begin at the working folder.
 *
 * `IOEX_EVENT_KIND_STARTED` says when it runs, `IOEX_EVENT_KIND_STOPPED` why it does not; until then other calls
 * answer `IOEX_STATUS_NOT_READY`. `callback` is first called when `*out` is set.
 *
 * The caller's word:
 * `config_toml` ends with a zero byte. `out` points to where the node is put; it is set to `NULL` when there is
 * none. What `user` points to may be used on a thread of the library until `ioex_node_free` has returned.
 */
enum ioex_status ioex_node_start(const char *config_toml,
                                 ioex_callback callback,
                                 void *user,
                                 struct ioex_node **out);

/**
 * How things stand. `*out` is to be freed with `ioex_state_free`; `NULL` when this fails. Short: it copies what is in memory.
 *
 * The caller's word:
 * `node` came from `ioex_node_start` and was not freed; `out` may be written to.
 */
enum ioex_status ioex_node_state(const struct ioex_node *node,
                                 struct ioex_state **out);

/**
 * Somebody told the device that there is something new: look at the channel now. Short: it writes a small file.
 *
 * The caller's word:
 * `node` came from `ioex_node_start` and was not freed.
 */
enum ioex_status ioex_node_check(const struct ioex_node *node);

/**
 * The maker's own centre, or its Monitor, handed over the channel's files: what lies in its folder `metadata`, with
 * the newest `N.snapshot.json` and `N.targets.json`. They are verified as if a mirror had sent them, so whoever
 * brings them need not be trusted.
 *
 * Returns at once, with the files copied. They are looked at between two steps: not while a package is being
 * fetched or a version is on trial. When they have a new version for this device, `IOEX_EVENT_KIND_OFFERED` follows;
 * when they do not hold, or newer ones came before they were looked at, `IOEX_EVENT_KIND_CALL_FAILED` with `call`
 * `take` says why. `IOEX_STATUS_INVALID`: a pointer is `NULL`, or the files are longer than those of any channel.
 *
 * The caller's word:
 * `node` came from `ioex_node_start` and was not freed; `files` and its members point to what they say.
 */
enum ioex_status ioex_node_take(const struct ioex_node *node,
                                const struct ioex_channel_files *files);

/**
 * The owner's word on what is offered or ready: `version` and `manifest` are those of the event that is answered.
 * When something else is offered by now, nothing happens and the answer is `IOEX_STATUS_OUTDATED`: another event
 * tells what. `now` passes over the hours for installing. Short: it writes a small file.
 *
 * The caller's word:
 * `node` came from `ioex_node_start` and was not freed; `version` and `manifest` end with a zero byte.
 */
enum ioex_status ioex_node_consent(const struct ioex_node *node,
                                   const char *version,
                                   const char *manifest,
                                   bool yes,
                                   bool now);

/**
 * What is on trial is healthy, and stays. Returns at once; then comes `IOEX_EVENT_KIND_CONFIRMED`, or, when
 * nothing is on trial, `IOEX_EVENT_KIND_CALL_FAILED`.
 *
 * The caller's word:
 * `node` came from `ioex_node_start` and was not freed.
 */
enum ioex_status ioex_node_confirm(const struct ioex_node *node);

/**
 * What is on trial goes, and the version before comes back. `why` is told to the maker. Returns at once; then
 * comes `IOEX_EVENT_KIND_FAILED`, or, when nothing is on trial, `IOEX_EVENT_KIND_CALL_FAILED`.
 *
 * The caller's word:
 * `node` came from `ioex_node_start` and was not freed; `why` ends with a zero byte.
 */
enum ioex_status ioex_node_roll_back(const struct ioex_node *node, const char *why);

/**
 * Lets what failed be tried again. Short: it writes small files.
 *
 * The caller's word:
 * `node` came from `ioex_node_start` and was not freed.
 */
enum ioex_status ioex_node_forgive(const struct ioex_node *node);

/**
 * Tells the node to end, and returns at once; then comes `IOEX_EVENT_KIND_STOPPED`.
 *
 * The caller's word:
 * `node` came from `ioex_node_start` and was not freed.
 */
enum ioex_status ioex_node_stop(const struct ioex_node *node);

/**
 * Ends the node, waits until its threads have ended, the callback included, and frees it; `NULL` is nothing. As a
 * rule that takes less than a second; a package that is just being written is waited for, and a command of yours that
 * runs. After `fork` it does nothing in the child, where the node's threads are not. From the callback it
 * answers `IOEX_STATUS_IN_CALLBACK` and does nothing.
 *
 * The caller's word:
 * `node` is `NULL`, or came from `ioex_node_start` and was not freed, and no other call has it.
 */
enum ioex_status ioex_node_free(struct ioex_node *node);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* IOEX_H */
