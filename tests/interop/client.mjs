// A client of the JSON protocol as people write it with fetch and ws.
//
// node client.mjs URL < [call, ...]: prints a list of answers, in the order of the calls.
//   http(s)  a call {"task", "input"} or {"body": text} -> {"status", "type", "body": text}
//   ws(s)    a call {"task", "input"} -> {"result"} or {"error"}, by their ids;
//            {"frames": [text, ...], "answers": n} -> the next n frames that come, as text;
//            {"leave": true} hangs up with all calls pending.
// The environment variable TOKEN is sent as `Authorization: Bearer`.
import { text } from "node:stream/consumers";
import { WebSocket } from "ws";

const url = process.argv[2];
const calls = JSON.parse(await text(process.stdin));
const headers = process.env.TOKEN ? { Authorization: `Bearer ${process.env.TOKEN}` } : {};

async function post({ task, input, body }) {
  const response = await fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers },
    body: body ?? JSON.stringify({ task, input }), // an input that is undefined is left out
  });
  const type = response.headers.get("content-type");
  return { status: response.status, type, body: await response.text() };
}

async function talk() {
  const socket = new WebSocket(url, { headers });
  const pending = new Map();
  const frames = { left: 0, came: [], done: null };
  let next = 1;
  const closed = new Promise((resolve) => {
    socket.on("close", (code) => {
      for (const resolveCall of pending.values()) resolveCall({ closed: code });
      frames.done?.({ closed: code, came: frames.came });
      resolve();
    });
  });
  socket.on("message", (data, isBinary) => {
    if (isBinary) throw new Error("a binary frame, which nobody asked for");
    if (frames.left > 0) {
      frames.came.push(data.toString());
      frames.left -= 1;
      if (frames.left === 0) frames.done(frames.came);
      return;
    }
    const { id, ...answer } = JSON.parse(data);
    pending.get(id)(answer); // an id of another type is nobody's: it throws
    pending.delete(id);
  });
  await new Promise((resolve, reject) => {
    socket.on("open", resolve);
    socket.on("error", reject);
  });
  const answers = [];
  for (const call of calls) {
    if (call.leave) {
      socket.terminate();
    } else if (call.frames) {
      await Promise.all(answers); // what comes from now on belongs to these frames
      const came = new Promise((resolve) => (frames.done = resolve));
      [frames.left, frames.came] = [call.answers, []];
      for (const frame of call.frames) socket.send(frame);
      answers.push(came);
    } else {
      const id = next++;
      answers.push(new Promise((resolve) => pending.set(id, resolve)));
      socket.send(JSON.stringify({ id, task: call.task, input: call.input }));
    }
  }
  const result = await Promise.all(answers);
  socket.close();
  await closed;
  return result;
}

const answers = url.startsWith("ws") ? await talk() : await Promise.all(calls.map(post));
console.log(JSON.stringify(answers));
