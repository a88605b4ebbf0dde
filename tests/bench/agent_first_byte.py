#!/usr/bin/env python3
"""agent_first_byte.py SOCKET -- QEMU ARG...: the milliseconds from starting QEMU to the first output
of a command that qemu-guest-agent runs in it. The agent has no way to say that it is there, so it is
asked until it answers, as its users do."""
import base64
import json
import os
import socket
import subprocess
import sys
import time

LIMIT = 120


def ask(sock, stream, command, arguments=None):
    request = {"execute": command}
    if arguments:
        request["arguments"] = arguments
    sock.sendall(json.dumps(request).encode() + b"\n")
    while True:
        line = stream.readline()
        if not line:
            raise EOFError("QEMU is gone")
        reply = json.loads(line.strip(b"\xff"))
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply["return"]


def wait_for_agent(path, began, qemu):
    while time.monotonic() - began < LIMIT and qemu.poll() is None:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(0.05)
        try:
            sock.connect(path)
            # Sent once: it waits in the port until the agent opens that.
            sock.sendall(b'{"execute": "guest-sync", "arguments": {"id": 7}}\n')
            sock.settimeout(LIMIT)
            stream = sock.makefile("rb")
            if json.loads(stream.readline().strip(b"\xff")).get("return") == 7:
                return sock, stream
        except (ConnectionError, FileNotFoundError):
            time.sleep(0.01)
    raise TimeoutError("the agent does not answer")


def main():
    path, command = sys.argv[1], sys.argv[3:]
    began = time.monotonic()
    qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        sock, stream = wait_for_agent(path, began, qemu)
        pid = ask(sock, stream, "guest-exec", {"path": "/bin/sh", "arg": ["-c", "echo hello"],
                                               "capture-output": True})["pid"]
        while True:
            status = ask(sock, stream, "guest-exec-status", {"pid": pid})
            if status["exited"]:
                break
            time.sleep(0.005)
        if base64.b64decode(status["out-data"]) != b"hello\n":
            raise RuntimeError(status)
        print("%.1f" % ((time.monotonic() - began) * 1000))
    finally:
        qemu.kill()
        qemu.wait()
        if os.path.exists(path):
            os.unlink(path)


main()
