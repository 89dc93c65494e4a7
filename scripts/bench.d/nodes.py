"""Nodes to rotate: sshds on loopback, each with an /etc, a /var, a /root and a /run of its own, on this machine's kernel."""

import os
import pathlib
import shlex
import socket
import subprocess
import time

from measure import Failed

# What each node has for itself; the rest is the machine's. Overlays: nothing that a node writes reaches the machine.
OWN = ("etc", "var")


def free_ports(count):
    """Ports that nobody listens on. All are held until all are found, so that none comes twice."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


class Nodes:
    """So many of them, below the directory `work`."""

    def __init__(self, work, count):
        self.work = pathlib.Path(work) / "nodes"
        self.names = [f"node{number:02}" for number in range(count)]
        self.config = str(self.work / "ssh_config")
        self.processes = []

    def path(self, name):
        return str(self.work / name)

    def start(self):
        """Makes keys and configurations, and starts all of them."""
        subprocess.run(["rm", "-rf", str(self.work)], check=True)
        self.work.mkdir(parents=True)
        for key in ("user", "host"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.path(key)], check=True)
        ports = free_ports(len(self.names))
        host_key = " ".join(pathlib.Path(self.path("host.pub")).read_text().split()[:2])
        pathlib.Path(self.path("known_hosts")).write_text("".join(f"[127.0.0.1]:{port} {host_key}\n" for port in ports))
        client = [f"Host {name}\n  Port {port}\n" for name, port in zip(self.names, ports)]
        client.append(f"Host *\n  HostName 127.0.0.1\n  User root\n  IdentityFile {self.path('user')}\n  IdentitiesOnly yes\n"
                      f"  UserKnownHostsFile {self.path('known_hosts')}\n  StrictHostKeyChecking yes\n  LogLevel ERROR\n")
        pathlib.Path(self.config).write_text("".join(client))
        for name, port in zip(self.names, ports):
            self.start_one(name, port)
        deadline = time.monotonic() + 60
        for name in self.names:
            while subprocess.run(["ssh", "-F", self.config, name, "true"], capture_output=True, check=False).returncode != 0:
                if time.monotonic() > deadline:
                    raise Failed(f"{name} does not answer: {pathlib.Path(self.path(name + '.log')).read_text()[-1000:]}")
                time.sleep(0.1)

    def start_one(self, name, port):
        lines = ["set -e"]
        for own in OWN:
            upper, inner = self.path(f"{name}/{own}"), self.path(f"{name}/{own}.work")
            os.makedirs(upper)
            os.makedirs(inner)
            lines.append(f"mount -t overlay -o lowerdir=/{own},upperdir={upper},workdir={inner} overlay /{own}")
        # An empty home: what the machine's own shells do as they start is no part of a measurement.
        os.makedirs(self.path(f"{name}/root"))
        lines.append(f"mount --bind {self.path(name + '/root')} /root")
        lines += ["mount -t tmpfs -o mode=0755 tmpfs /run", "mkdir /run/sshd"]
        sshd = ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-p", str(port), "-h", self.path("host"),
                "-o", "ListenAddress=127.0.0.1", "-o", f"AuthorizedKeysFile={self.path('user.pub')}", "-o", "StrictModes=no",
                "-o", "UsePAM=no", "-o", "UseDNS=no", "-o", "PidFile=none", "-o", "PermitRootLogin=yes", "-o", "LogLevel=ERROR",
                "-o", "MaxStartups=100:30:200", "-o", "PrintMotd=no", "-o", "Subsystem=sftp internal-sftp"]
        lines.append(f"exec {shlex.join(sshd)}")
        with open(self.path(f"{name}.log"), "wb") as log:
            unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
            command = [*unshare, "sh", "-c", "\n".join(lines)]
            self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def everywhere(self, command):
        """Runs a shell command on every node."""
        running = [subprocess.Popen(["ssh", "-F", self.config, name, command], stdin=subprocess.DEVNULL) for name in self.names]
        for name, process in zip(self.names, running):
            if process.wait() != 0:
                raise Failed(f"{name}: {command} ended with {process.returncode}")

    def stop(self):
        """Ends all of them, and what they started."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes = []
        subprocess.run(["rm", "-rf", str(self.work)], check=False)
