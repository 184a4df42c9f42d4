/*
 * A firmware's update agent: a complete program on ioex.h.
 *
 *   firmware CONFIG.toml [--yes] [--once] [--unhealthy-if WORD APP]
 *
 * It starts the device's node from a configuration file, prints what happens, and asks on stdin whether a version
 * may be installed (--yes: nobody is asked). When one is installed it ends its node and starts itself anew, as a
 * program does that is itself what was replaced; so it does when the version before is back. The new one is told
 * that the version is on trial, and looks whether it is healthy: APP must be readable and must not contain WORD.
 * Then it confirms the version, or goes back.
 *
 * On stdin it takes: yes, no, check, quit, and `take FOLDER`: the maker's own centre put its channel's folder
 * `metadata` there, and the device need not look for it. With --once it ends after the first update:
 *   0  confirmed, or told to quit      2  the node could not be started, or ended by itself
 *   1  wrong command line              3  the version failed
 *
 * The main loop waits in poll() for stdin and for the node's events: the callback, which runs on the library's
 * thread, puts a copy of each event into a pipe.
 *
 * Compile, as C or C++, against what `cargo xtask sdk install --prefix DIR` put there, with one of:
 *   cc firmware.c $(PKG_CONFIG_PATH=DIR/lib/pkgconfig pkg-config --cflags --libs ioexnode) -o firmware
 *   cc firmware.c -I DIR/include DIR/lib/libioexnode.a -lpthread -ldl -lm -lgcc_s -o firmware
 */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ioex.h"

/* Exit codes, and what to do instead of ending with one. */
enum { EXIT_OK = 0, EXIT_USAGE = 1, EXIT_NODE = 2, EXIT_FAILED_UPDATE = 3, GO_ON = -1, START_ANEW = -2 };

/* Longest configuration in bytes. */
#define CONFIG_MAX (64 * 1024)
/* Longest file of a channel in bytes. */
#define CHANNEL_FILE_MAX (4 * 1024 * 1024)
/* A device takes no more roots at once. */
#define ROOTS_MAX 32
/* Longest line on stdin in bytes. */
#define LINE_MAX_BYTES 1024

/* What the main loop needs of an event. Shorter than PIPE_BUF, so that it is written in one piece. */
struct told {
    ioex_event_kind kind;
    ioex_reason code;
    bool asks, rolled_back;
    uint64_t done, total, from_maker, from_devices;
    char version[48];
    char manifest[96];
    char text[320];
};

/* What the owner was asked about last: an answer is about that, whatever the maker published meanwhile. */
struct asked {
    char version[48];
    char manifest[96];
};

struct options {
    const char *config, *word, *app;
    bool yes, once;
};

static void copy(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from ? from : "");
}

/* On the library's thread: copy, pass on, return. */
static void on_event(const ioex_event *event, void *user)
{
    int out = *(const int *)user;
    struct told told;
    memset(&told, 0, sizeof told);
    told.kind = event->kind;
    told.code = event->code;
    told.asks = event->asks;
    told.rolled_back = event->rolled_back;
    told.done = event->done_bytes;
    told.total = event->total_bytes;
    told.from_maker = event->from_maker;
    told.from_devices = event->from_local + event->from_others;
    copy(told.version, sizeof told.version, event->version);
    copy(told.manifest, sizeof told.manifest, event->manifest);
    copy(told.text, sizeof told.text, event->uid ? event->uid : event->reason);
    while (write(out, &told, sizeof told) < 0 && errno == EINTR) {
    }
}

/* The file with a zero byte behind it, or NULL. */
static char *read_file(const char *path, size_t max, size_t *length)
{
    FILE *file = fopen(path, "rb");
    char *text = file ? (char *)malloc(max + 1) : NULL;
    *length = text ? fread(text, 1, max, file) : 0;
    if (file)
        fclose(file);
    if (text)
        text[*length] = 0;
    return text;
}

/* The firmware's own idea of health. */
static bool is_healthy(const struct options *options)
{
    if (!options->app)
        return true;
    size_t length;
    char *text = read_file(options->app, 1024 * 1024, &length);
    bool healthy = text && !strstr(text, options->word);
    free(text);
    return healthy;
}

static void complain(const char *what, ioex_status status)
{
    if (status != IOEX_STATUS_OK)
        fprintf(stderr, "%s: %s\n", what, ioex_last_error_message());
}

/* Returns the exit code, GO_ON or START_ANEW. */
static int heed(ioex_node *node, const struct told *told, const struct options *options, struct asked *asked)
{
    switch (told->kind) {
    case IOEX_EVENT_KIND_STARTED:
        printf("started %s\n", told->text);
        break;
    case IOEX_EVENT_KIND_OFFERED:
    case IOEX_EVENT_KIND_READY:
        printf("%s %s\n", told->kind == IOEX_EVENT_KIND_READY ? "ready" : "offered", told->version);
        if (told->asks && options->yes) {
            complain("consent", ioex_node_consent(node, told->version, told->manifest, true, false));
        } else if (told->asks) {
            copy(asked->version, sizeof asked->version, told->version);
            copy(asked->manifest, sizeof asked->manifest, told->manifest);
            printf("install it? yes or no\n");
        }
        break;
    case IOEX_EVENT_KIND_PROGRESS:
        printf("progress %llu of %llu (from the maker %llu, from devices %llu)\n",
               (unsigned long long)told->done, (unsigned long long)told->total,
               (unsigned long long)told->from_maker, (unsigned long long)told->from_devices);
        break;
    case IOEX_EVENT_KIND_INSTALLED:
        printf("installed %s\n", told->version);
        return START_ANEW;
    case IOEX_EVENT_KIND_TRIAL:
        printf("trial %s\n", told->version);
        if (told->asks && is_healthy(options))
            complain("confirm", ioex_node_confirm(node));
        else if (told->asks)
            complain("roll back", ioex_node_roll_back(node, "the firmware says that it is unhealthy"));
        break;
    case IOEX_EVENT_KIND_CONFIRMED:
        printf("confirmed %s\n", told->version);
        return options->once ? EXIT_OK : GO_ON;
    case IOEX_EVENT_KIND_FAILED:
        printf("failed %s%s: %s\n", told->version, told->rolled_back ? ", rolled back" : "", told->text);
        if (options->once)
            return EXIT_FAILED_UPDATE;
        return told->rolled_back ? START_ANEW : GO_ON;
    case IOEX_EVENT_KIND_WAITING:
        if (told->code == IOEX_REASON_DECLINED) /* the owner may still say yes to it */
            printf("declined %s\n", told->version);
        else
            printf("waiting: %s\n", told->text);
        break;
    case IOEX_EVENT_KIND_CALL_FAILED:
        printf("not done: %s\n", told->text);
        break;
    case IOEX_EVENT_KIND_STOPPED:
        printf("stopped %s\n", told->text);
        return EXIT_NODE;
    default: /* of a later library */
        break;
    }
    return GO_ON;
}

/* The highest N of the files N.NAME in a folder; 0: there is none. */
static unsigned long newest(const char *folder, const char *name)
{
    unsigned long found = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        char *rest;
        unsigned long number = strtoul(entry->d_name, &rest, 10);
        if (*rest == '.' && !strcmp(rest + 1, name) && number > found)
            found = number;
    }
    if (dir)
        closedir(dir);
    return found;
}

/* The file N.NAME, or NAME when N is 0. Of one that is not there no bytes. */
static ioex_bytes load(const char *folder, unsigned long number, const char *name)
{
    char path[LINE_MAX_BYTES + 64];
    ioex_bytes bytes;
    if (number)
        snprintf(path, sizeof path, "%s/%lu.%s", folder, number, name);
    else
        snprintf(path, sizeof path, "%s/%s", folder, name);
    bytes.data = (const uint8_t *)read_file(path, CHANNEL_FILE_MAX, &bytes.len);
    return bytes;
}

/* Hands the files of a channel's folder to the node. Whether they hold is told later. */
static ioex_status take(ioex_node *node, const char *folder)
{
    ioex_bytes roots[ROOTS_MAX];
    ioex_channel_files files;
    memset(&files, 0, sizeof files);
    files.roots = roots;
    unsigned long last = newest(folder, "root.json");
    for (unsigned long n = last > ROOTS_MAX ? last - ROOTS_MAX + 1 : 1; n <= last; n++)
        roots[files.roots_len++] = load(folder, n, "root.json");
    files.timestamp = load(folder, 0, "timestamp.json");
    files.snapshot = load(folder, newest(folder, "snapshot.json"), "snapshot.json");
    files.targets = load(folder, newest(folder, "targets.json"), "targets.json");
    ioex_status status = ioex_node_take(node, &files);
    /* They were copied. */
    for (size_t n = 0; n < files.roots_len; n++)
        free((void *)roots[n].data);
    free((void *)files.timestamp.data);
    free((void *)files.snapshot.data);
    free((void *)files.targets.data);
    return status;
}

/* Returns the exit code, GO_ON or START_ANEW. */
static int obey(ioex_node *node, const char *line, const struct asked *asked)
{
    bool yes = !strncmp(line, "yes", 3);
    if ((yes || !strncmp(line, "no", 2)) && !asked->version[0])
        printf("nothing was asked\n");
    else if (yes || !strncmp(line, "no", 2))
        complain("consent", ioex_node_consent(node, asked->version, asked->manifest, yes, yes));
    else if (!strncmp(line, "check", 5))
        complain("check", ioex_node_check(node));
    else if (!strncmp(line, "take ", 5))
        complain("take", take(node, line + 5));
    else if (!strncmp(line, "quit", 4))
        return EXIT_OK;
    return GO_ON;
}

static int loop(ioex_node *node, int events, const struct options *options)
{
    struct pollfd wait[2] = {{events, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
    struct asked asked;
    char line[LINE_MAX_BYTES];
    size_t have = 0;
    memset(&asked, 0, sizeof asked);
    for (;;) {
        int code = GO_ON;
        if (poll(wait, 2, -1) < 0 && errno != EINTR)
            return EXIT_NODE;
        if (wait[0].revents & POLLIN) {
            struct told told;
            if (read(events, &told, sizeof told) == (ssize_t)sizeof told)
                code = heed(node, &told, options, &asked);
        }
        if (code == GO_ON && wait[1].revents & (POLLIN | POLLHUP)) {
            ssize_t got = read(STDIN_FILENO, line + have, sizeof line - 1 - have);
            if (got <= 0) {
                wait[1].fd = -1; /* nobody is there to answer */
            } else {
                char *begin = line, *end;
                have += (size_t)got;
                line[have] = 0;
                for (; code == GO_ON && (end = strchr(begin, '\n')); begin = end + 1) {
                    *end = 0;
                    code = obey(node, begin, &asked);
                }
                have = strlen(begin);
                memmove(line, begin, have + 1);
                if (have == sizeof line - 1)
                    have = 0; /* too long for a command */
            }
        }
        if (code != GO_ON)
            return code;
    }
}

static bool parse(int argc, char **argv, struct options *options)
{
    for (int n = 1; n < argc; n++) {
        if (!strcmp(argv[n], "--yes"))
            options->yes = true;
        else if (!strcmp(argv[n], "--once"))
            options->once = true;
        else if (!strcmp(argv[n], "--unhealthy-if") && n + 2 < argc) {
            options->word = argv[++n];
            options->app = argv[++n];
        } else if (argv[n][0] != '-' && !options->config)
            options->config = argv[n];
        else
            return false;
    }
    return options->config != NULL;
}

int main(int argc, char **argv)
{
    struct options options;
    int pipes[2];
    ioex_node *node = NULL;
    memset(&options, 0, sizeof options);
    if (!parse(argc, argv, &options)) {
        fprintf(stderr, "firmware CONFIG.toml [--yes] [--once] [--unhealthy-if WORD APP]\n");
        return EXIT_USAGE;
    }
    size_t length;
    char *config = read_file(options.config, CONFIG_MAX, &length);
    if (!config || pipe(pipes) < 0) {
        perror(options.config);
        free(config);
        return EXIT_NODE;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    ioex_log_to_stderr();
    ioex_status status = ioex_node_start(config, on_event, &pipes[1], &node);
    free(config); /* it was copied */
    if (status != IOEX_STATUS_OK) {
        complain("start", status);
        return EXIT_NODE;
    }
    int code = loop(node, pipes[0], &options);
    ioex_state *state = NULL;
    if (ioex_node_state(node, &state) == IOEX_STATUS_OK) {
        printf("running %s\n", state->running);
        ioex_state_free(state);
    }
    /* Freeing waits for the callback. Nobody reads the pipe any more, so that a callback that found it full would
       wait for ever: with its reading end closed, it gets an error instead. */
    close(pipes[0]);
    complain("free", ioex_node_free(node));
    close(pipes[1]);
    if (code == START_ANEW) {
        execvp(argv[0], argv);
        perror(argv[0]);
        return EXIT_NODE;
    }
    return code;
}
