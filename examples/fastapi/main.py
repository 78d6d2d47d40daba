"""A FastAPI app with the graceful shutdown that tutorials show: a flag, set by
a SIGTERM handler, that turns /healthz and new work away.

Under uvicorn the handler never runs: uvicorn installs its own after importing
this module, and that one closes the listening socket at once. Nothing here
was changed for drainit, which needs neither.
"""

import asyncio
import signal

from fastapi import FastAPI, Response, status

app = FastAPI()

# Whether new traffic is accepted.
SHOULD_ACCEPT_TRAFFIC = True
# How many tasks are under way.
ACTIVE_TASKS = 0


def handle_termination_signal(*_):
    """Stop accepting traffic on SIGTERM."""
    global SHOULD_ACCEPT_TRAFFIC
    SHOULD_ACCEPT_TRAFFIC = False
    print("SIGTERM received. Initiating traffic draining...")


signal.signal(signal.SIGTERM, handle_termination_signal)


@app.get("/healthz", status_code=status.HTTP_200_OK)
async def readiness_probe():
    """The readiness probe: 503 while shutting down."""
    if not SHOULD_ACCEPT_TRAFFIC:
        return Response(
            status_code=status.HTTP_503_SERVICE_UNAVAILABLE,
            content="Server is shutting down.",
        )
    return {"status": "ok"}


@app.post("/process-data")
async def process_data_endpoint():
    """A task of 5 s; refused while shutting down."""
    global ACTIVE_TASKS
    if not SHOULD_ACCEPT_TRAFFIC:
        return Response(
            status_code=status.HTTP_503_SERVICE_UNAVAILABLE,
            content="Server terminating. No new tasks accepted.",
        )
    ACTIVE_TASKS += 1
    try:
        await asyncio.sleep(5)
        print("Task processed.")
        return {"message": "Data processed successfully."}
    finally:
        ACTIVE_TASKS -= 1


@app.on_event("shutdown")
async def app_shutdown():
    """Wait for the tasks under way."""
    print("FastAPI shutdown event triggered.")
    while ACTIVE_TASKS > 0:
        print(f"Waiting for {ACTIVE_TASKS} active tasks to finish...")
        await asyncio.sleep(1)
    print("All active tasks completed. Application shutting down.")
