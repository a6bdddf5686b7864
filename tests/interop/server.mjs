// A service of the JSON protocol as people write it with express and ws: with their mistakes.
//
// Prints its port, and ends when its standard input does. Beside honest tasks there is `raw`, which
// answers with just what its input says.
import { createServer } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import express from "express";
import { WebSocketServer } from "ws";

// A plain object: it has `constructor`, `toString` and `__proto__` too.
const tasks = {
  echo: (input) => input,
  add: ({ a, b }) => a + b,
  has_input: (input) => input !== undefined,
  nothing: () => undefined, // JSON.stringify leaves the key out
  fail: (input) => {
    throw new Error(input);
  },
  silent: () => {
    throw new Error("");
  },
  never: () => new Promise(() => {}),
  later: async (input) => {
    await sleep(input);
    return input;
  },
};

const app = express();
app.disable("x-powered-by");
app.use(express.json({ limit: "20mb" }));
app.post("/compute", async (request, response, next) => {
  const { task, input } = request.body;
  if (task === "raw") {
    response.status(input.status ?? 200).type(input.type ?? "application/json");
    response.end(input.body);
    return;
  }
  if (task === "page") {
    next(new Error("what express says of an error that nobody handles"));
    return;
  }
  if (task === "hang_up") {
    request.socket.destroy();
    return;
  }
  const body = tasks[task];
  if (body === undefined) {
    response.status(404).json({ error: `Unknown task: ${task}` });
    return;
  }
  try {
    response.json({ result: await body(input) });
  } catch (error) {
    response.status(500).json({ error: error.message });
  }
});

const http = createServer(app);
const sockets = new WebSocketServer({ server: http, path: "/ws" });
sockets.on("connection", (socket) => {
  socket.on("error", () => {});
  socket.on("message", async (data) => {
    const { id, task, input } = JSON.parse(data);
    const say = (answer) => socket.send(JSON.stringify(answer));
    if (task === "raw") {
      // Ids stand in the frames as $id.
      for (const frame of input) socket.send(frame.replaceAll("$id", id));
    } else if (task === "binary") {
      socket.send(Buffer.from(JSON.stringify({ id, result: input })), { binary: true });
    } else if (task === "close") {
      socket.close(input, "as told");
    } else if (task === "hang_up") {
      socket.terminate();
    } else if (tasks[task] === undefined) {
      say({ id, error: `Unknown task: ${task}` });
    } else {
      try {
        say({ id, result: await tasks[task](input) });
      } catch (error) {
        say({ id, error: error.message });
      }
    }
  });
});

http.listen(0, "127.0.0.1", () => console.log(http.address().port));
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
