"""A Celery worker's tasks, and with "produce" as its argument what asks for one each second."""

import os
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
        time.sleep(1)
