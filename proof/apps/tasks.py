"""A Celery worker's tasks, and with "produce" as its argument what asks for two a second."""

import os
import random
import sys
import time

from celery import Celery

app = Celery("tasks", broker="redis://%s:8080/0" % os.environ["BACK"])
app.conf.worker_redirect_stdouts = False


@app.task
def job(n):
    print("begin", n, flush=True)
    time.sleep(1.5)
    print("end", n, flush=True)


if __name__ == "__main__" and sys.argv[1:] == ["produce"]:
    n = 0
    while True:
        job.delay(n)
        n += 1
        # At random. Each worker asks Redis anew once a second, and the one that
        # has waited longest is given a job: in step with that, one worker gets
        # them all, and the others none for minutes.
        time.sleep(random.uniform(0, 1))
