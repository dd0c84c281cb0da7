"""Walks the client, worker and admin client of the package `python3-gearman` against the server at argv[1]:argv[2]; the last line is `ok`."""
import sys
import threading
import time

import python3_gearman as gearman

address = "%s:%s" % (sys.argv[1], sys.argv[2])


def steps(worker, job):
    for step in (1, 2, 3):
        worker.send_job_status(job, step, 3)
        worker.send_job_data(job, "part;")
    return "whole"


def work():
    worker = gearman.GearmanWorker([address])
    worker.set_client_id("python3-gearman")
    worker.register_task("reverse", lambda _, job: job.data[::-1])
    worker.register_task("steps", steps)
    worker.work()


threading.Thread(target=work, daemon=True).start()
client = gearman.GearmanClient([address])
request = client.submit_job("reverse", "xebi", poll_timeout=60.0)
assert request.complete and request.result == "ibex", request.result
for priority in (gearman.PRIORITY_HIGH, gearman.PRIORITY_LOW):
    request = client.submit_job("reverse", "ab", priority=priority, unique="u-%s" % priority, poll_timeout=60.0)
    assert request.result == "ba", request.result
many = client.submit_multiple_jobs([dict(task="reverse", data="item %d" % n) for n in range(50)], poll_timeout=60.0)
assert [r.result for r in many] == ["item %d" % n for n in range(50)] or [r.result for r in many] == [("item %d" % n)[::-1] for n in range(50)]
request = client.submit_job("steps", "go", poll_timeout=60.0)
assert "".join(request.data_updates) in ("part;part;part;", "") and request.result == "whole", (request.data_updates, request.result)
request = client.submit_job("nobody-does-this", "x", unique="same", background=True, wait_until_complete=False, poll_timeout=60.0)
request = client.get_job_status(request, poll_timeout=60.0)
assert request.status["known"] and not request.status["running"], request.status

admin = gearman.GearmanAdminClient([address])
assert admin.ping_server() > 0
assert admin.get_version()
status = {row["task"]: row for row in admin.get_status()}
assert status["nobody-does-this"]["queued"] == 1, status
assert any(row["client_id"] == "python3-gearman" for row in admin.get_workers())
print("ok", flush=True)
