"""Proxmox's archive of a machine, by pve-qemu's vma_spec.txt; shares nothing with deaddrop.

vma.py make OUT CONFIG NAME=DISK...       a new archive, in the way of Proxmox's writer: the devices by turns
vma.py extract VMA DIRECTORY              checks it as Proxmox's reader does; writes each device and each configuration
"""

import hashlib
import os
import struct
import sys

BLOCK, CLUSTER, PER_EXTENT, FIXED = 4096, 65536, 59, 12288


def make(out, config, devices):
    identity = bytes(range(100, 116))
    blobs = bytearray(b"\0")

    def blob(data):
        place = len(blobs)
        blobs.extend(struct.pack("<H", len(data)) + data)
        return place

    names = [blob(b"qemu-server.conf\0")]
    datas = [blob(config.encode())]
    infos = [(0, 0)] * 256
    files = {}
    for number, device in enumerate(devices, 1):
        name, path = device.split("=", 1)
        infos[number] = (blob(name.encode() + b"\0"), os.path.getsize(path))
        files[number] = open(path, "rb")
    blobs.extend(bytes(-len(blobs) % 512))
    header = bytearray(FIXED)
    header[:32] = struct.pack(">4sI16sq", b"VMA\0", 1, identity, 1700000000)
    struct.pack_into(">III", header, 48, FIXED, len(blobs), FIXED + len(blobs))
    for index, (name, data) in enumerate(zip(names, datas)):
        struct.pack_into(">I", header, 2044 + 4 * index, name)
        struct.pack_into(">I", header, 3068 + 4 * index, data)
    for number, (name, size) in enumerate(infos):
        struct.pack_into(">IIQ", header, 4096 + 32 * number, name, 0, size)
    whole = header + blobs
    whole[32:48] = hashlib.md5(whole).digest()
    entries = []
    most = max(-(-size // CLUSTER) for _, size in infos)
    for cluster in range(most):
        for number in files:
            if cluster < -(-infos[number][1] // CLUSTER):
                entries.append((number, cluster))
    with open(out, "wb") as to:
        to.write(whole)
        for start in range(0, len(entries), PER_EXTENT):
            table, data = bytearray(), bytearray()
            for number, cluster in entries[start : start + PER_EXTENT]:
                files[number].seek(cluster * CLUSTER)
                content = files[number].read(CLUSTER).ljust(CLUSTER, b"\0")
                mask = 0
                for index in range(16):
                    part = content[index * BLOCK : (index + 1) * BLOCK]
                    if part != bytes(BLOCK):
                        mask |= 1 << index
                        data += part
                table += struct.pack(">HBBI", mask, 0, number, cluster)
            extent = struct.pack(">4sHH16s16s", b"VMAE", 0, len(data) // BLOCK, identity, bytes(16))
            extent += bytes(table).ljust(PER_EXTENT * 8, b"\0")
            extent = extent[:24] + hashlib.md5(extent).digest() + extent[40:]
            to.write(extent + data)


def extract(path, directory):
    with open(path, "rb") as file:
        whole = file.read()
    magic, version, identity, _, digest, offset, size, header_size = struct.unpack_from(">4sI16sq16sIII", whole)
    assert (magic, version) == (b"VMA\0", 1), "no VMA"
    header = whole[:header_size]
    assert hashlib.md5(header[:32] + bytes(16) + header[48:]).digest() == digest, "header: checksum"
    blobs = header[offset : offset + size]

    def blob(place):
        (length,) = struct.unpack_from("<H", blobs, place)
        return blobs[place + 2 : place + 2 + length]

    os.makedirs(directory)
    for index in range(256):
        (name,) = struct.unpack_from(">I", header, 2044 + 4 * index)
        (data,) = struct.unpack_from(">I", header, 3068 + 4 * index)
        if name:
            with open(os.path.join(directory, blob(name).rstrip(b"\0").decode()), "wb") as to:
                to.write(blob(data))
    devices = {}
    for number in range(1, 256):
        name, _, size = struct.unpack_from(">IIQ", header, 4096 + 32 * number)
        if name:
            to = open(os.path.join(directory, blob(name).rstrip(b"\0").decode() + ".raw"), "wb")
            to.truncate(size)
            devices[number] = (to, size, set())
    at = header_size
    while at < len(whole):
        extent = whole[at : at + 512]
        magic, reserved, count, own, digest = struct.unpack_from(">4sHH16s16s", extent)
        assert magic == b"VMAE" and own == identity and reserved == 0, "extent: its start"
        assert hashlib.md5(extent[:24] + bytes(16) + extent[40:]).digest() == digest, "extent: checksum"
        at += 512
        blocks = 0
        for index in range(PER_EXTENT):
            mask, reserved, number, cluster = struct.unpack_from(">HBBI", extent, 40 + 8 * index)
            if number == 0:
                continue
            to, size, seen = devices[number]
            assert cluster not in seen and cluster * CLUSTER < size and reserved == 0, "cluster"
            seen.add(cluster)
            for bit in range(16):
                if mask >> bit & 1:
                    place = cluster * CLUSTER + bit * BLOCK
                    part = whole[at : at + BLOCK]
                    assert len(part) == BLOCK, "truncated"
                    to.seek(place)
                    to.write(part[: max(0, size - place)])
                    at += BLOCK
                    blocks += 1
        assert blocks == count, "extent: number of blocks"
    for to, size, seen in devices.values():
        assert len(seen) == -(-size // CLUSTER), "clusters are missing"
        to.close()


if sys.argv[1] == "make":
    make(sys.argv[2], sys.argv[3], sys.argv[4:])
else:
    extract(sys.argv[2], sys.argv[3])
