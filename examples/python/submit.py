#!/usr/bin/env python3
"""Submit a command to the honeydew daemon, wait for it and print the result: a start for a client of your own.

Needs grpcio and grpcio-tools (Debian: python3-grpcio, python3-grpc-tools, python3-pkg-resources).
Usage: submit.py COMMAND KEY=VALUE...
"""
import os
import sys

import grpc

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, ROOT)
protos, services = grpc.protos_and_services("daemon.proto")


def main(command, *words):
    home = os.environ.get("HONEYDEW_HOME", os.path.expanduser("~/.honeydew"))
    socket = os.environ.get("HONEYDEW_SOCKET", os.path.join(home, "daemon.sock"))
    with grpc.insecure_channel("unix:" + socket, [("grpc.default_authority", "localhost")]) as channel:
        daemon = services.DaemonStub(channel)
        request = protos.SubmitJobRequest(command=command)
        request.payload.update(dict(word.split("=", 1) for word in words))
        job = daemon.SubmitJob(request, timeout=30)
        for state in daemon.WatchJob(protos.WatchJobRequest(job_id=job.job_id), timeout=300):
            print("job", state.job_id, "is", state.status, file=sys.stderr)
        if state.status != "completed":
            sys.exit(state.error)
        # The result is streamed: it may be larger than a gRPC message.
        for chunk in daemon.GetJobResult(protos.GetJobResultRequest(job_id=job.job_id), timeout=300):
            sys.stdout.buffer.write(chunk.data)
        print()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
