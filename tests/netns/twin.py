# Forges established sockets with the four-tuples of another pod's connections: with CAP_NET_ADMIN a socket can be put into any state.
#
# Arguments: the other pod's address, the first port and the number of sockets. Prints "ready" and keeps the sockets until it is killed.
import signal
import socket
import sys

address, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family, metadata = (socket.AF_INET6, "fd00:ec2::254") if ":" in address else (socket.AF_INET, "169.254.169.254")
TCP_REPAIR, ESTABLISHED = 19, 1
held = []
for port in range(first, first + count):
    twin = socket.socket(family)
    twin.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    twin.bind((address, port))
    # In repair mode no packet is sent, and the socket is established at once.
    twin.connect((metadata, 80))
    assert twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED, port
    held.append(twin)
print("ready", flush=True)
signal.pause()
