#!/usr/bin/python3
"""A stand-in for k3s, and under that name for rke2: what its sources say of tokens, and nothing else.

A server reads its token's file once, at start, and waits for it. Its bootstrap data is in a datastore that all servers
share (/srv/store, one directory), encrypted with the token; it refuses to start with another one. It checks passwords
in memory. /srv/do holds what a test wants of it: `fail` (how many requests answer 500 after half of their work),
`hold` (a request does its work and does not answer), `old` (no such request), `never` (it is never ready).
"""
import base64, hashlib, hmac, http.server, json, os, ssl, sys, time, urllib.request

STORE = "/srv/store"


def wish(name):
    return os.path.exists("/srv/do/" + name)


def log(line):
    with open(STORE + "/log", "a") as file:
        file.write(line + "\n")
    with open("/srv/journal/" + open("/srv/unit").read(), "a") as file:
        file.write(line + "\n")


def die(line):
    log(f"{NAME}: {line}")
    sys.exit(1)


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w") as file:
        file.write(text)
    os.rename(path + ".new", path)


def secret_of(token):
    """pkg/clientaccess: K10<hash>::user:SECRET, or SECRET."""
    token = token.strip()
    if token.startswith("K10"):
        token = token.split("::", 1)[-1]
    return token.split(":", 1)[-1]


def key_of(secret):
    return hashlib.sha256(secret.encode()).hexdigest()[:12]


def sealed(secret, text):
    stream = hashlib.shake_256(secret.encode()).digest(len(text.encode()))
    body = bytes(a ^ b for a, b in zip(text.encode(), stream))
    return hmac.digest(secret.encode(), body, "sha256").hex() + body.hex()


def opened(secret, text):
    mac, body = bytes.fromhex(text[:64]), bytes.fromhex(text[64:])
    if not hmac.compare_digest(mac, hmac.digest(secret.encode(), body, "sha256")):
        return None
    stream = hashlib.shake_256(secret.encode()).digest(len(body))
    return json.loads(bytes(a ^ b for a, b in zip(body, stream)))


def store():
    """The key and the content of the bootstrap data, or nothing."""
    names = [name for name in os.listdir(STORE) if name.startswith("bootstrap-")]
    if not names:
        return None
    return names[0][len("bootstrap-"):], open(STORE + "/" + names[0]).read()


def save(secret, passwd):
    old = store()
    write(f"{STORE}/bootstrap-{key_of(secret)}", sealed(secret, json.dumps({"passwd": passwd, "time": time.time()})))
    if old and old[0] != key_of(secret):
        os.remove(f"{STORE}/bootstrap-{old[0]}")


def ca_hash():
    return hashlib.sha256(open("/srv/ca.crt", "rb").read()).hexdigest()


def options(words):
    found, at = {}, 0
    while at < len(words):
        name, _, value = words[at].partition("=")
        if not value and at + 1 < len(words) and not words[at + 1].startswith("-"):
            at += 1
            value = words[at]
        found[name] = value
        at += 1
    return found


def token_file(path):
    while not os.path.exists(path):
        time.sleep(0.2)
    return secret_of(open(path).read())


def bootstrap(flags, secret):
    passwd = DATA + "/server/cred/passwd"
    held = store()
    if "--server" in flags and os.path.exists(DATA + "/server/db") and os.path.exists(passwd):
        # It takes the file from a peer, with its own token in it.
        if held and held[0] != key_of(secret):
            write(passwd, secret + "\n")
    if held is None:
        if "--server" in flags:
            die("no server to join")
        save(secret, secret)
        held = store()
    if held[0] != key_of(secret):
        if not os.path.exists(DATA + "/server/db"):
            die("https://peer: 401 Unauthorized")
        die("bootstrap data already found and encrypted with different token")
    data = opened(secret, held[1])
    is_other = os.path.exists(passwd) and open(passwd).read() != data["passwd"] + "\n"
    if is_other and os.stat(passwd).st_mtime > data["time"]:
        die(f"{passwd} newer than datastore and could cause a cluster outage. Remove the file(s) from disk and restart "
            "to be recreated from datastore.")
    write(passwd, data["passwd"] + "\n")


class Supervisor(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, code, text=""):
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def refused(self):
        if self.path != f"/v1-{PROGRAM}/token" or wish("old"):
            self.answer(404)
            return True
        password = base64.b64decode(self.headers.get("Authorization", " ").split(" ")[1] or "").decode()
        user, _, password = password.partition(":")
        if user != "server" or password != SECRET:
            self.answer(401)
            return True
        return False

    def do_GET(self):
        if self.path == "/join":
            # A new agent shows its token; the password is that in memory.
            held = base64.b64decode(self.headers["Authorization"].split(" ")[1]).decode()
            return self.answer(200 if held == "node:" + SECRET else 401)
        if not self.refused():
            self.answer(405)

    def do_PUT(self):
        if self.refused():
            return
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        new = body["newToken"]
        log(f"{NAME}: PUT")
        if not new or new.startswith("K10"):
            return self.answer(500, "token error ID 1")
        write(DATA + "/server/cred/passwd", new + "\n")
        write(DATA + "/server/token", f"K10{ca_hash()}::server:{new}\n")
        key = store()[0]
        if wish("fail") and key != key_of(new):
            left = int(open("/srv/do/fail").read()) - 1
            write("/srv/do/fail", str(left)) if left else os.remove("/srv/do/fail")
            return self.answer(500, "token error ID 2")
        if key == key_of(SECRET) or key == key_of(new):
            if key != key_of(new):
                save(new, new)
        else:
            return self.answer(500, "token error ID 3")
        while wish("hold"):
            time.sleep(0.05)
        self.answer(200)


def serve(flags):
    global SECRET
    SECRET = token_file(flags["--token-file"])
    bootstrap(flags, SECRET)
    os.makedirs(DATA + "/server/db", exist_ok=True)
    os.makedirs(DATA + "/server/tls", exist_ok=True)
    write(DATA + "/server/token", f"K10{ca_hash()}::server:{SECRET}\n")
    write(DATA + "/server/tls/server-ca.crt", open("/srv/ca.crt").read())
    port = flags["--https-listen-port" if PROGRAM == "k3s" else "--supervisor-port"]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Supervisor)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("/srv/ca.crt", "/srv/ca.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    if not wish("never"):
        open("/srv/ready", "w").close()
        log(f"{NAME}: ready")
    server.serve_forever()


def join(flags):
    secret = token_file(flags["--token-file"])
    while not os.path.exists(DATA + "/agent"):
        auth = base64.b64encode(f"node:{secret}".encode()).decode()
        request = urllib.request.Request(flags["--server"] + "/join", headers={"Authorization": "Basic " + auth})
        try:
            with urllib.request.urlopen(request, context=ssl.create_default_context(cafile="/srv/ca.crt"), timeout=5):
                os.makedirs(DATA + "/agent")
        except OSError:
            time.sleep(0.3)
    write("/srv/agent-token", secret)
    log(f"{NAME}: ready")
    while True:
        time.sleep(1000)


if __name__ == "__main__":
    PROGRAM = os.path.basename(sys.argv[0])
    NAME = open("/srv/name").read()
    DATA = f"/var/lib/rancher/{PROGRAM}"
    if sys.argv[1:] == ["kubectl", "get", "--raw", "/readyz"]:
        # As after a restart: not before the test wants it.
        if not os.path.exists("/srv/ready") or wish("unready") and NAME + ": restart" in open(STORE + "/log").read():
            sys.exit("Error from server (InternalError): [-]etcd failed")
        print("ok")
    else:
        try:
            {"server": serve, "agent": join}[sys.argv[1]](options(sys.argv[2:]))
        except Exception as error:
            die(f"it fails: {error!r}")
