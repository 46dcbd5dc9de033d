// Submits a command to the honeydew daemon, waits for it and prints the result: a start for a client of your own.
// Usage: npm install && node submit.mjs COMMAND KEY=VALUE...
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import { homedir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const [command, ...words] = process.argv.slice(2);
const home = process.env.HONEYDEW_HOME || join(homedir(), ".honeydew");
const socket = process.env.HONEYDEW_SOCKET || join(home, "daemon.sock");
const proto = loader.loadSync(new URL("../../daemon.proto", import.meta.url).pathname, { keepCase: true, defaults: true });
const { honeydew } = grpc.loadPackageDefinition(proto);
const daemon = new honeydew.Daemon("unix:" + socket, grpc.credentials.createInsecure(), { "grpc.default_authority": "localhost" });

// google.protobuf.Struct, as this library spells it.
const fields = Object.fromEntries(
  words.map((word) => word.split(/=(.*)/s)).map(([key, value]) => [key, { stringValue: value }]),
);
const job = await promisify(daemon.SubmitJob.bind(daemon))({ command, payload: { fields } });

let state;
for await (state of daemon.WatchJob({ job_id: job.job_id })) {
  console.error("job", state.job_id, "is", state.status);
}
if (state.status !== "completed") {
  console.error(state.error);
  process.exit(1);
}
// The result is streamed: it may be larger than a gRPC message.
for await (const chunk of daemon.GetJobResult({ job_id: job.job_id })) {
  process.stdout.write(chunk.data);
}
console.log();
daemon.close();
