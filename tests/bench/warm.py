#!/usr/bin/env python3
"""What the warm benchmark asks, and of whom.

  warm.py turns [--rounds N] [--pings N] [--execs N] [--cpu] NAME=COMMAND...
  warm.py agent SOCKET -- QEMU ARG...
  warm.py ssh PORT KEY DIR [--kept] -- QEMU ARG...

A subject is a process that says "ready" and answers the lines "ping N", "exec N" (and, with --cpu, the others of
TITLES) by N numbers each, in microseconds (warm_bench.c is one, the other two are here). turns starts them all and asks each in
turn, each round in another order, so that what else the machine does meets all."""
import argparse
import base64
import json
import os
import shlex
import socket
import subprocess
import sys
import time

LIMIT = 180
IDLE = 1  # before an exec the VM has had nothing to do, as one that waits for its job


def usec(began):
    return int((time.monotonic() - began) * 1e6)


# --- subjects ------------------------------------------------------------------------------------

def serve(calls):
    """Answer lines until the input ends. calls: by their names; what is not there has no numbers."""
    print("ready", flush=True)
    for line in sys.stdin:
        name, count = line.split()
        numbers = []
        for _ in range(int(count) if name in calls else 0):
            if name == "exec":
                time.sleep(IDLE)
            began = time.monotonic()
            calls[name]()
            numbers.append(usec(began))
        print(*numbers, flush=True)


class Agent:
    def __init__(self, path):
        # It has no way to say that it is there: its users ask until it answers.
        began = time.monotonic()
        while True:
            self.sock = socket.socket(socket.AF_UNIX)
            try:
                self.sock.connect(path)
                self.sock.settimeout(LIMIT)
                self.stream = self.sock.makefile("rb")
                self.sock.sendall(b'{"execute": "guest-sync", "arguments": {"id": 7}}\n')
                if json.loads(self.stream.readline().strip(b"\xff")).get("return") == 7:
                    return
            except (ConnectionError, FileNotFoundError):
                pass
            if time.monotonic() - began > LIMIT:
                raise TimeoutError("the agent does not answer")
            time.sleep(0.05)

    def ask(self, command, arguments=None):
        request = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        self.sock.sendall(json.dumps(request).encode() + b"\n")
        reply = json.loads(self.stream.readline().strip(b"\xff"))
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply["return"]

    def ping(self):
        self.ask("guest-ping")

    def exec(self):
        pid = self.ask("guest-exec", {"path": "/bin/true", "capture-output": True})["pid"]
        # Nothing tells when it has ended, but asking.
        while not self.ask("guest-exec-status", {"pid": pid})["exited"]:
            time.sleep(0.001)


class Ssh:
    def __init__(self, port, key, directory, kept):
        self.command = ["ssh", "-F", "none", "-p", port, "-i", key, "-o", "BatchMode=yes", "-o", "ConnectTimeout=30",
                        "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=%s/known" % directory,
                        "-o", "LogLevel=ERROR"]
        if kept:
            self.command += ["-o", "ControlMaster=auto", "-o", "ControlPersist=yes",
                             "-o", "ControlPath=%s/control-%%C" % directory]
        self.command += ["root@127.0.0.1"]
        began = time.monotonic()
        while subprocess.run(self.command + ["true"], stdin=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, timeout=LIMIT).returncode != 0:
            if time.monotonic() - began > LIMIT:
                raise TimeoutError("sshd does not answer")
            time.sleep(0.2)

    def exec(self):
        subprocess.run(self.command + ["/bin/true"], stdin=subprocess.DEVNULL, check=True, timeout=LIMIT)

    def close(self):
        subprocess.run(self.command[:-1] + ["-O", "exit", self.command[-1]], stdin=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, timeout=LIMIT)


def with_qemu(arguments, run):
    qemu = subprocess.Popen(arguments, stdin=subprocess.DEVNULL) if arguments else None
    try:
        run()
    finally:
        if qemu:
            qemu.kill()
            qemu.wait()


def run_agent(arguments):
    def run():
        agent = Agent(arguments[0])
        serve({"ping": agent.ping, "exec": agent.exec})
    with_qemu(arguments[2:], run)


def run_ssh(arguments):
    split = arguments.index("--")
    port, key, directory = arguments[:3]
    kept = "--kept" in arguments[:split]

    def run():
        ssh = Ssh(port, key, directory, kept)
        try:
            serve({"exec": ssh.exec})
        finally:
            if kept:
                ssh.close()
    with_qemu(arguments[split + 1:], run)


# --- turns ---------------------------------------------------------------------------------------

TITLES = {"ping": "ping", "exec": "exec", "cpu": "processor time of an exec",
          "soon": "exec, job init not ahead", "sooncpu": "its processor time"}


class Subject:
    def __init__(self, text):
        self.name, command = text.split("=", 1)
        self.numbers = {what: [] for what in TITLES}
        self.process = subprocess.Popen(shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)

    def await_ready(self):
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError("%s: did not start" % self.name)

    def ask(self, what, count, keep=True):
        self.process.stdin.write("%s %d\n" % (what, count))
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("%s: ended" % self.name)
        if keep:
            self.numbers[what] += map(int, line.split())

    def end(self):
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def print_table(subjects, what):
    if not any(subject.numbers[what] for subject in subjects):
        return
    title = TITLES[what] + ", ms"
    print("\n%-34s %8s %8s %10s %10s %10s %8s" % (title, "n", "min", "p10", "p50", "p90", "ratio"))
    first = None
    for subject in subjects:
        numbers = sorted(subject.numbers[what])
        if not numbers:
            continue
        p10, p50, p90 = (numbers[int(len(numbers) * p)] / 1000 for p in (0.1, 0.5, 0.9))
        first = first or p50
        print("%-34s %8d %8.2f %10.2f %10.2f %10.2f %7.2fx" % (
            subject.name, len(numbers), numbers[0] / 1000, p10, p50, p90, p50 / first))


def run_turns(arguments):
    parser = argparse.ArgumentParser(prog="warm.py turns")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--pings", type=int, default=50)
    parser.add_argument("--execs", type=int, default=5)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("subjects", nargs="+")
    options = parser.parse_args(arguments)
    subjects = []
    try:
        # One at a time: an emulated boot takes a processor.
        for text in options.subjects:
            subjects.append(Subject(text))
            subjects[-1].await_ready()
        for subject in subjects:
            subject.ask("ping", options.pings, False)
            subject.ask("exec", options.execs, False)
        for i in range(options.rounds):
            for k in range(len(subjects)):
                subject = subjects[(i + k) % len(subjects)]
                subject.ask("ping", options.pings)
                subject.ask("exec", options.execs)
                for what in ("cpu", "soon", "sooncpu") if options.cpu else ():
                    subject.ask(what, options.execs)
    finally:
        for subject in subjects:
            subject.end()
    for what in TITLES:
        print_table(subjects, what)


def main():
    modes = {"turns": run_turns, "agent": run_agent, "ssh": run_ssh}
    if len(sys.argv) < 2 or sys.argv[1] not in modes:
        sys.exit(__doc__)
    os.environ["LC_ALL"] = "C"
    modes[sys.argv[1]](sys.argv[2:])


main()
