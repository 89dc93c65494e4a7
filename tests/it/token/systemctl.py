#!/usr/bin/python3
"""A stand-in for systemctl that runs the unit of a cluster: Type=notify for a server (it is active when /srv/ready is
there), Type=exec for an agent, Restart=always. The state is in /srv/state: ActiveState, SubState, the main process, and
the one that supervises it."""
import os, shlex, signal, subprocess, sys, time

UNIT = open("/srv/unit").read()


def state():
    try:
        return open("/srv/state").read().split()
    except OSError:
        return ["inactive", "dead", "0", "0"]


def become(active, sub, main):
    with open("/srv/state.new", "w") as file:
        file.write(f"{active} {sub} {main} {os.getpid()}")
    os.rename("/srv/state.new", "/srv/state")


def command():
    text = open(f"/etc/systemd/system/{UNIT}").read().replace("\\\n", " ")
    return shlex.split(next(line for line in text.splitlines() if line.startswith("ExecStart="))[10:])


def supervise(argv):
    while True:
        if os.path.exists("/srv/ready"):
            os.remove("/srv/ready")
        nothing = open(os.devnull, "r+")
        child = subprocess.Popen(argv, stdin=nothing, stdout=nothing, stderr=nothing)
        become("activating", "start", child.pid)
        signal.signal(signal.SIGTERM, lambda *_: (child.kill(), sys.exit(0)))
        is_up = argv[1] == "agent"
        while child.poll() is None:
            if is_up or os.path.exists("/srv/ready"):
                if state()[0] != "active":
                    become("active", "running", child.pid)
            time.sleep(0.05)
        become("activating", "auto-restart", 0)
        time.sleep(1)


def runs(process):
    try:
        return "State:\tZ" not in open(f"/proc/{process}/status").read()
    except OSError:
        return False


def stop():
    supervisor = int(state()[3])
    if supervisor:
        try:
            os.kill(supervisor, signal.SIGTERM)
        except OSError:
            pass
        while runs(supervisor):
            time.sleep(0.02)
    if os.path.exists("/srv/ready"):
        os.remove("/srv/ready")
    with open("/srv/state", "w") as file:
        file.write("inactive dead 0 0")


def start():
    argv = command()
    if os.fork() == 0:
        os.setsid()
        for number in range(64):
            try:
                os.close(number)
            except OSError:
                pass
        for _ in range(3):
            os.open(os.devnull, os.O_RDWR)
        if os.fork():
            os._exit(0)
        supervise(argv)
    while state()[:2] == ["inactive", "dead"] or state()[1] == "start":
        time.sleep(0.05)
    return 0 if state()[0] == "active" else 1


def show(unit):
    active, sub, main, _ = state()
    loaded = unit == UNIT
    print(f"Type={'exec' if not loaded or command()[1] == 'agent' else 'notify'}")
    print(f"LoadState={'loaded' if loaded else 'not-found'}")
    if not loaded:
        return print("ActiveState=inactive\nSubState=dead")
    print(f"ActiveState={active}\nSubState={sub}\nMainPID={main}\nResult=success\nNRestarts=0")
    words = command()
    print(f"ExecStart={{ path={words[0]} ; argv[]={' '.join(words)} ; ignore_errors=no ; start_time=[n/a] }}")


if __name__ == "__main__":
    verb, rest = sys.argv[1], [word for word in sys.argv[2:] if word != "--"]
    if verb == "show":
        for number, unit in enumerate(sys.argv[sys.argv.index("--") + 1:]):
            if number:
                print()
            show(unit)
    elif rest[0] == UNIT:
        name = open("/srv/name").read()
        with open("/srv/store/log", "a") as file:
            file.write(f"{name}: {verb}\n")
        if verb in ("restart", "stop"):
            stop()
        if verb in ("restart", "start"):
            sys.exit(start())
