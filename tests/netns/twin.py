# Forges established sockets that say they are another pod's connections: CAP_NET_ADMIN may put a socket into any state.
#
# Arguments: the other pod's address, the first port, how many. Says "ready" and holds them until it is ended.
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
    # In repair no packet is sent: the socket is established because it says so.
    twin.connect((metadata, 80))
    assert twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED, port
    held.append(twin)
print("ready", flush=True)
signal.pause()
