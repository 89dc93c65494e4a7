#!/usr/bin/env python3
"""Writes table.json: what python-dotenv makes of many small files, hand-made ones and random ones.

Run it in an environment with `pip install python-dotenv==1.2.4`, from any directory. The result is the same each time.
"""
import importlib.metadata
import json
import logging
import pathlib
import random
import tempfile

import dotenv

CASES = [
    "", "\n", "A=1", "A=1\n", "A=\n", "A=", "A", "A\n", "A=1\nA=2\n", "A=1\nA\n", "A\nA=1\n",
    "export A=1", "export  A=1", "export\tA=1", "exportA=1", "export", "export=1", "export =1", "export A", "export\nA=1",
    "export export A=1", "export # c", "export 'A'=1",
    "# comment", "  # comment\nA=1", "#A=1", "A=1 # c", "A=1# c", "A=1\t#c", "A=#c", "A= #c", "A= # c", "A=  # c\nB=2",
    "A=a # b # c", "A=a#b #c", "A # c", "A# c", "A=\"1\" # c", "A='1' # c", "A=\"1\"# c", "A='1'#c", "A=\"1\"x", "A='1' x",
    "A = 1", "A =1", "A= 1", " A=1", "\tA=1", "A=1  ", "A=1\t", "A= 1 2  3 ", "A  B=1", "A B", "A.b-c:d=1", "1=2", "A/B=1",
    "A='a b'", "A=\"a b\"", "A='a\nb'", "A=\"a\nb\"", "A=\"a\n\n#b\nc\"\nB=2", "A='a\n b=c\n'\nB=2",
    "A='it\\'s'", "A='a\\\\'", "A='a\\\\' #c", "A='\\n'", "A='\\\"'", "A='\\x'", "A='\\'", "A='\\",
    "A=\"a\\\"b\"", "A=\"a\\\\\"", "A=\"\\\\n\"", "A=\"\\n\\r\\t\\v\\f\\b\\a\"", "A=\"\\'\"", "A=\"\\x41\\u0041\\101\"", "A=\"\\$B\"",
    "A=\"\\", "A=\"\\\"", "A=\"\\\\\\\"\"", "A=\"\\\nB\"", "A='\\\nB'",
    "A=\\n", "A=a\\", "A=a\\\nB=2", "A=\\\"x\\\"", "A=x\"y\"", "A=x'y", "A=a\"b #c\"", "A=it's",
    "A=\"unterminated\nB=2\n", "A='unterminated\nB=2\n", "A=\"x\nB='y\nC=\"z\"\n", "A='x\"\nB=\"y'\n", "A=\"x\" \nB=2", "A=\"x\"\n\n\nB=2",
    "A=\"\"", "A=''", "A=\" \"", "A=' x '", "A=\"\"\"x\"\"\"", "A=''x''", "A=\"a\"\"b\"", "A=`x`",
    "'A'=1", "'A B'=1", "'A'", "'A' = 1", "''=1", "'A=1", "'A\nB'=1", "\"A\"=1", "'A'x=1", "'#'=1",
    "=1", "=", "= 1\nA=2", "A==1", "A=1=2", "A=a=b=c", "?\n", "A=1;B=2", "A=1,B=2",
    "A=$B", "A=${B}", "A=\"${B:-x}\"", "A='$B'", "B=1\nA=${B}", "A=$(id)", "A=`id`", "A=${HOME}",
    "A=1\r\nB=2\r\n", "A=1\rB=2\r", "A=\"a\r\nb\"\r\n", "A='a\rb'", "A=1\r\n\r\nB=2", "A\r\nB=1", "A=\r\nB=1", "A=x \r\n",
    "\ufeffA=1", "\ufeff\ufeffA=1", "A=\ufeff1", "A=ü", "Ü=1", "A=\"ü\\nö\"", "A=日本 # c", "A=\U0001f511",
    "A=x\u00a0", "A=x\u00a0#c", "A\u00a0=1", "A=\u20031", "A=x\u2028B=2", "A=x\u0085B=2", "A=x\x0bB=2", "A=x\x0c", "A=x\x1c#c", "A\x1f=1",
    "\x1cA=1", "A=\x1d1", "\x0c\nA=1", "A=1\x00", "A=\"\x00\"", "A=x\u200b#c", "A=x\u180e #c",
    "A=1\n\n\n", "\n\n\nA=1", "A=1\n  \nB=2", "A=1\n# c\nB=2\n# d", "A=\"1\"\nA='2'\nA=3",
    "K3S_TOKEN=K10abc::server:xyz\n", "WIFI=\"PSK=\\\"a b\\\"\"\n", "KEY=\"-----BEGIN KEY-----\nYWJj\n-----END KEY-----\n\"\nNEXT=1\n",
    "HASH=$y$j9T$abc$def\n", "HASH='$6$salt$hash'\n", "URL=postgres://u:p@h/db?x=1#frag\n", "URL=x #frag\n", "PASS=p@ss#word\n", "PASS=p #w\n",
]


def random_cases(count):
    generator = random.Random(20260901)
    pieces = ["A", "B", "KEY", "=", "=", "=", "'", "\"", "\\", "\n", "\n", " ", "\t", "#", "export ", "\\n", "\\\"", "\\'", "x", "y z",
              "\r\n", "$A", "ü", "''", "\"\"", "A=1\n", "B='b'\n", "C=\"c\"\n"]
    for _ in range(count):
        yield "".join(generator.choice(pieces) for _ in range(generator.randint(1, 24)))


def main():
    import sys

    logging.disable(logging.CRITICAL)
    extra = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    cases = []
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "env")
        for text in [*CASES, *random_cases(extra)]:
            path.write_bytes(text.encode())
            values = dotenv.dotenv_values(path, interpolate=False)
            cases.append({"text": text, "values": values})
    table = {"python-dotenv": importlib.metadata.version("python-dotenv"), "cases": cases}
    lines = ",\n".join(json.dumps(case) for case in cases)
    text = f'{{"python-dotenv": {json.dumps(table["python-dotenv"])}, "cases": [\n{lines}\n]}}\n'
    out = sys.argv[2] if len(sys.argv) > 2 else pathlib.Path(__file__).with_name("table.json")
    pathlib.Path(out).write_text(text)


main()
