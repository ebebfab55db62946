/* udp_echo PORT: sends every datagram back to where it came from, by IPv4 and IPv6. */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(argc > 1 ? atoi(argv[1]) : 7)}, from;
    static char data[65536];
    int server = socket(AF_INET6, SOCK_DGRAM, 0);
    if (server < 0 || bind(server, (struct sockaddr *)&address, sizeof address)) {
        perror("udp_echo");
        return 1;
    }
    for (;;) {
        socklen_t size = sizeof from;
        ssize_t octets = recvfrom(server, data, sizeof data, 0, (struct sockaddr *)&from, &size);
        if (octets >= 0)
            sendto(server, data, octets, 0, (struct sockaddr *)&from, size);
    }
}
