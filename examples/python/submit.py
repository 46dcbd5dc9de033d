#!/usr/bin/env python3
"""Submit a command to the honeydew daemon, wait for it and print the result: a start for a client of your own.

Needs grpcio, protoc and its Python plugin (Debian: python3-grpcio, protobuf-compiler, protobuf-compiler-grpc).
Usage: submit.py COMMAND KEY=VALUE...
"""
import os
import subprocess
import sys
import tempfile

import grpc

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
with tempfile.TemporaryDirectory() as stubs:  # a real client would keep what is generated
    subprocess.run(["protoc", "-I" + ROOT, "--python_out=" + stubs, "--grpc_out=" + stubs,
                    "--plugin=protoc-gen-grpc=/usr/bin/grpc_python_plugin", "daemon.proto"], check=True)
    sys.path.insert(0, stubs)
    import daemon_pb2 as protos
    import daemon_pb2_grpc as services


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
