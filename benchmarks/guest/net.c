/* Rates of a network. net server PORT: serves until it is killed. net client ADDRESS PORT SECONDS PREFIX: each line BENCH name value unit. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 1 << 18 };

static char block[BLOCK];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* What a connection is for is its first octet: to be sent to, to be read from, or octets there and back. */
static void serve(int peer)
{
    char kind = 0;
    ssize_t size;
    if (read(peer, &kind, 1) != 1)
        return;
    while (kind == 'g' && write(peer, block, BLOCK) > 0)
        ;
    while (kind != 'g' && (size = read(peer, block, BLOCK)) > 0)
        if (kind == 'r' && write(peer, block, size) != size)
            return;
}

static int server(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_ANY)};
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 8)) {
        perror("net");
        return 1;
    }
    signal(SIGCHLD, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    for (;;) {
        int peer = accept(listener, NULL, NULL);
        if (peer < 0 || fork()) {
            close(peer);
            continue;
        }
        setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        serve(peer);
        _exit(0);
    }
}

static int connected(const char *host, int port, char kind)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = inet_addr(host)};
    int peer = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(peer, (struct sockaddr *)&address, sizeof address) || write(peer, &kind, 1) != 1) {
        perror(host);
        exit(1);
    }
    return peer;
}

/* Octets in a second. */
static double throughput(const char *host, int port, int sending, double seconds)
{
    int peer = connected(host, port, sending ? 's' : 'g');
    double began = now(), end = began + seconds, sum = 0;
    while (now() < end) {
        ssize_t size = sending ? write(peer, block, BLOCK) : read(peer, block, BLOCK);
        if (size <= 0) {
            perror("net");
            exit(1);
        }
        sum += size;
    }
    end = now();
    close(peer);
    return sum / (end - began);
}

static double round_trips(const char *host, int port, double seconds)
{
    int peer = connected(host, port, 'r');
    double began = now(), end = began + seconds;
    long count = 0;
    for (; now() < end; count++)
        if (write(peer, block, 1) != 1 || read(peer, block, 1) != 1)
            exit(1);
    end = now();
    close(peer);
    return count / (end - began);
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "server"))
        return server(atoi(argv[2]));
    if (argc != 6)
        return 2;
    const char *host = argv[2], *prefix = argv[5];
    int port = atoi(argv[3]);
    double seconds = atof(argv[4]);
    printf("BENCH %s_send %.1f MB/s\n", prefix, throughput(host, port, 1, seconds) / 1e6);
    printf("BENCH %s_receive %.1f MB/s\n", prefix, throughput(host, port, 0, seconds) / 1e6);
    printf("BENCH %s_round_trips %.0f 1/s\n", prefix, round_trips(host, port, seconds));
    printf("BENCH_END\n");
    return 0;
}
