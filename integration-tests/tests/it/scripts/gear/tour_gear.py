"""Walks the client and worker of the package `gear` against the server at argv[1]:argv[2]; the last line is `ok`."""
import sys
import threading
import time

import gear

host, port = sys.argv[1], int(sys.argv[2])


def work(worker):
    while True:
        job = worker.getJob()
        if job.binary_name == b"quit":
            job.sendWorkComplete()
            return
        if job.binary_name == b"upper":
            job.sendWorkComplete(job.arguments.upper())
        elif job.binary_name == b"steps":
            for step in (1, 2, 3):
                job.sendWorkStatus(step, 3)
                job.sendWorkData(b"part;")
            job.sendWorkWarning(b"mind")
            job.sendWorkComplete(b"whole")
        elif job.binary_name == b"throws":
            job.sendWorkException(b"thrown")
        else:
            job.sendWorkFail()


class Client(gear.Client):
    """Notes what ends."""

    def __init__(self):
        super().__init__()
        self.ended = threading.Condition()

    def note(self, job):
        with self.ended:
            self.ended.notify_all()
        return job

    def handleWorkComplete(self, packet):
        return self.note(super().handleWorkComplete(packet))

    def handleWorkFail(self, packet):
        return self.note(super().handleWorkFail(packet))

    def handleWorkException(self, packet):
        return self.note(super().handleWorkException(packet))

    def wait(self, *jobs):
        deadline = time.monotonic() + 60
        with self.ended:
            while not all(job.complete or job.failure for job in jobs):
                assert time.monotonic() < deadline, "jobs do not end"
                self.ended.wait(1)


worker = gear.Worker("python-gear")
worker.addServer(host, port)
worker.waitForServer()
for name in ("upper", "steps", "throws", "breaks", "quit"):
    worker.registerFunction(name)
threading.Thread(target=work, args=(worker,), daemon=True).start()

client = Client()
client.addServer(host, port)
client.waitForServer()
assert client.setOption("exceptions", timeout=60), "option exceptions"


def run(name, arguments, **how):
    job = gear.Job(name.encode(), arguments)
    client.submitJob(job, timeout=60, **how)
    client.wait(job)
    return job


for precedence in (gear.PRECEDENCE_NORMAL, gear.PRECEDENCE_HIGH, gear.PRECEDENCE_LOW):
    assert b"".join(run("upper", b"ibex", precedence=precedence).data) == b"IBEX"
many = [gear.Job(b"upper", b"item %d" % n, unique=b"u%d" % n) for n in range(50)]
for job in many:
    client.submitJob(job, timeout=60)
client.wait(*many)
assert [b"".join(job.data) for job in many] == [b"ITEM %d" % n for n in range(50)]
steps = run("steps", b"")
assert steps.data == [b"part;", b"part;", b"part;", b"mind", b"whole"], steps.data
assert steps.numerator == b"3" and steps.denominator == b"3" and steps.warning, "status and warning"
assert run("breaks", b"").failure
thrown = run("throws", b"")
assert thrown.exception == b"thrown", thrown.exception
blob = bytes(range(256)) * 4096
assert b"".join(run("upper", blob).data) == blob.upper()

waiting = gear.Job(b"nobody-does-this", b"x", unique=b"same")
client.submitJob(waiting, background=True, timeout=60)
again = gear.Job(b"nobody-does-this", b"x", unique=b"same")
client.submitJob(again, background=True, timeout=60)
assert waiting.handle == again.handle, "equal keys are one job"
connection = client.active_connections[0]
for request, wanted in (
    (gear.StatusAdminRequest(), b"nobody-does-this\t1\t0\t0"),
    (gear.VersionAdminRequest(), b"OK"),
    (gear.WorkersAdminRequest(), b"python-gear"),
    (gear.ShowJobsAdminRequest(), waiting.handle),
    (gear.ShowUniqueJobsAdminRequest(), b"same"),
):
    connection.sendAdminRequest(request, timeout=60)
    assert wanted in request.response, (request, request.response)
cancel = gear.CancelJobAdminRequest(waiting.handle)
connection.sendAdminRequest(cancel, timeout=60)
assert cancel.response.startswith(b"OK"), cancel.response
run("quit", b"")
print("ok", flush=True)
