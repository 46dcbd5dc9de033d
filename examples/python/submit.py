#!/usr/bin/python3
"""Submits a command to the honeydew daemon, waits for it and prints the result: a start for a client of your own.

Usage: protoc -I ../.. --python_out=. daemon.proto && ./submit.py COMMAND KEY=VALUE...
Needs grpcio and protobuf; Debian has them as python3-grpcio and python3-protobuf.
"""
import os
import sys

import grpc

import daemon_pb2 as pb

home = os.environ.get("HONEYDEW_HOME") or os.path.expanduser("~/.honeydew")
socket = os.environ.get("HONEYDEW_SOCKET") or os.path.join(home, "daemon.sock")
channel = grpc.insecure_channel("unix:" + socket, [("grpc.default_authority", "localhost")])


def submit(request):
    call = channel.unary_unary(
        "/honeydew.Daemon/SubmitJob",
        request_serializer=pb.SubmitJobRequest.SerializeToString,
        response_deserializer=pb.SubmitJobResponse.FromString,
    )
    return call(request)


def stream(method, request, answer):
    call = channel.unary_stream(
        "/honeydew.Daemon/" + method,
        request_serializer=type(request).SerializeToString,
        response_deserializer=answer.FromString,
    )
    return call(request)


request = pb.SubmitJobRequest(command=sys.argv[1])
request.payload.update(dict(word.split("=", 1) for word in sys.argv[2:]))
job = submit(request)
for state in stream("WatchJob", pb.WatchJobRequest(job_id=job.job_id), pb.JobStatus):
    print("job", state.job_id, "is", state.status, file=sys.stderr)
if state.status != "completed":
    sys.exit(state.error)
# The result is streamed: it may be larger than a gRPC message.
for chunk in stream("GetJobResult", pb.GetJobResultRequest(job_id=job.job_id), pb.ResultChunk):
    sys.stdout.buffer.write(chunk.data)
print()
