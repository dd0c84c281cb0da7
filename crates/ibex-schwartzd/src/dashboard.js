"use strict";
// The page for people. Everything is put in as text, never as markup: names and arguments are strangers'.
const byId = (id) => document.getElementById(id);
const when = (epoch) => epoch == null ? "" : new Date(epoch * 1000).toISOString().replace("T", " ").slice(0, 19);
const number = (handle) => handle.replace(/^.*-/, "");
const path = encodeURIComponent;
const show = (value, digits = 1) => value == null || !isFinite(value) ? "" : value >= 100 ? Math.round(value).toString() : value.toFixed(digits);
let before = null, dead = [], query = null;

async function call(method, url, body) {
  const headers = { "content-type": "application/json" };
  if (byId("token").value) headers.authorization = "Bearer " + byId("token").value;
  const answer = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
  const text = await answer.text();
  let value = {};
  try { value = JSON.parse(text); } catch { /* no JSON: the status says it */ }
  if (!answer.ok) throw new Error(value.error ? value.error.message : answer.status + " " + answer.statusText);
  return value;
}
function say(text, kind) { byId("say").textContent = text; byId("say").className = kind || ""; }
function button(text, act, done) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.onclick = async () => {
    try { await act(made); if (done !== null) { await all(); say(done || "Done: " + text, "good"); } }
    catch (error) { (byId("box").open ? byId("box-say") : byId("say")).textContent = error.message; if (!byId("box").open) byId("say").className = "bad"; }
  };
  return made;
}
function acts(...buttons) { const span = document.createElement("span"); span.append(...buttons.filter(Boolean)); return span; }
function link(text, act, href = "#") { const a = document.createElement("a"); a.href = href; a.textContent = text; a.onclick = async (event) => { event.preventDefault(); try { await act(); } catch (error) { say(error.message, "bad"); } }; return a; }
const jobLink = (handle) => link(number(handle), () => job(handle), "#job=" + handle);
function soft(text, kind) { const span = document.createElement("span"); span.textContent = text; span.className = kind; return span; }
// Columns are [title, "n" for numbers].
function table(id, columns, rows, none) {
  const head = document.createElement("thead"), body = document.createElement("tbody"), line = head.insertRow();
  for (const [title, kind] of columns) { const th = document.createElement("th"); th.textContent = title; if (kind) th.className = kind; line.append(th); }
  for (const cells of rows) {
    const row = body.insertRow();
    cells.forEach((cell, index) => {
      const place = row.insertCell(), [title, kind] = columns[index];
      place.dataset.l = title;
      if (kind) place.className = kind;
      if (cell instanceof Node) { place.append(cell); if (cell.querySelector && cell.querySelector("button")) place.className = "acts"; } else place.textContent = cell ?? "";
    });
  }
  if (!rows.length) { const cell = body.insertRow().insertCell(); cell.colSpan = columns.length; cell.className = "empty"; cell.textContent = none; }
  byId(id).replaceChildren(head, body);
}
// The one dialog: a title, what is in it, and what can be done.
function box(title, body, buttons) {
  byId("box-title").textContent = title;
  byId("box-body").replaceChildren(...body);
  byId("box-say").textContent = "";
  byId("box-acts").replaceChildren(...buttons.filter(Boolean), button("Close", () => byId("box").close(), null));
  if (!byId("box").open) byId("box").showModal();
}
function edit(title, value, help, save) {
  const area = document.createElement("textarea"), hint = soft(help, "soft");
  area.setAttribute("aria-label", title);
  area.value = JSON.stringify(value, null, 2);
  box(title, [area, hint], [button("Save", async () => {
    let read;
    try { read = JSON.parse(area.value); } catch (error) { throw new Error("This is no JSON: " + error.message); }
    await save(read);
    byId("box").close();
  }, "Saved")]);
}
const argument = (job) => job.args !== undefined ? JSON.stringify(job.args, null, 2) : job.arg ?? (job.arg_b64 === undefined ? null : "base64: " + job.arg_b64);
const retry = (handle) => call("POST", "/v1/jobs/" + handle + "/retry");
const now = (handle) => call("PATCH", "/v1/jobs/" + handle, { delay: 0 });
const close = (act) => async () => { await act(); byId("box").close(); };

async function job(handle) {
  const j = await call("GET", "/v1/jobs/" + path(handle));
  const list = document.createElement("dl"), parts = [list];
  const put = (name, value) => { if (value == null || value === "") return; const dt = document.createElement("dt"), dd = document.createElement("dd"); dt.textContent = name; dd.append(value); list.append(dt, dd); };
  put("handle", j.handle); put("function", j.func); put("state", soft(j.state, j.state === "failed" ? "bad" : j.state === "completed" ? "good" : ""));
  put("runs", String(j.attempt ?? "") + (j.max_attempts ? " of " + j.max_attempts : ""));
  put("not before", j.state === "blocked" ? "its turn" : when(j.run_after)); put("lease until", j.state === "grabbed" ? when(j.grabbed_until) : ""); put("inserted", when(j.insert_time)); put("ended", when(j.finished_at));
  put("exit status", j.exit_status == null ? "" : String(j.exit_status)); put("key", j.uniqkey); put("coalesce", j.coalesce); put("priority", j.priority == null ? "" : String(j.priority));
  put("concurrency", j.concurrency); put("rate", j.rate); put("batch", j.batch); put("trace", j.trace);
  const block = (title, text) => { const head = document.createElement("h2"), pre = document.createElement("pre"); head.textContent = title; pre.textContent = text; parts.push(head, pre); };
  for (const f of j.failures || []) block("Failed " + when(f.time), f.message);
  for (const f of j.past || []) block("Failed " + when(f.time) + ", before it was brought back", f.message);
  if (argument(j) !== null) block("Argument" + (j.format ? " (" + (j.format === "storable" ? "Storable, decoded" : j.format) + ")" : ""), argument(j));
  for (const name of ["result", "meta", "progress", "parents"]) if (j[name] != null) block(name[0].toUpperCase() + name.slice(1), typeof j[name] === "string" ? j[name] : JSON.stringify(j[name], null, 2));
  const waits = ["ready", "scheduled", "blocked"].includes(j.state), over = ["failed", "cancelled", "expired"].includes(j.state);
  box("Job " + number(j.handle), parts, [
    over && button("Retry", close(() => retry(j.handle)), "Job " + number(j.handle) + " is ready again"),
    j.state === "scheduled" && button("Run now", close(() => now(j.handle))),
    waits && button("Edit", () => change(j), null),
    (waits || j.state === "grabbed") && button("Cancel", close(() => call("DELETE", "/v1/jobs/" + j.handle)), j.state === "grabbed" ? "Its worker will hear of it" : "Cancelled"),
  ]);
}
function change(j) {
  const fields = { priority: j.priority ?? null, run_after: j.run_after };
  if (j.format === "text" || j.format === "json") fields.arg = j.arg; else if (j.arg_b64 !== undefined) fields.arg_b64 = j.arg_b64;
  edit("Edit job " + number(j.handle), fields, "What is left out stays. arg is text, arg_b64 bytes; delay (seconds from now) may stand for run_after.", (read) => {
    if (read.priority === null) delete read.priority;
    if (read.run_after === j.run_after) delete read.run_after;
    return call("PATCH", "/v1/jobs/" + j.handle, read);
  });
}
function functions(funcs, seconds) {
  const rows = funcs.map((f) => {
    const old = before && before.funcs.get(f.func), now = f.since_start;
    const part = (name) => old ? now[name] - old[name] : null;
    const ended = old ? part("completed") + part("failed") + part("retried") + part("expired") : null;
    const total = now.completed + now.failed + now.retried + now.expired, lost = now.failed + now.retried + now.expired;
    const turn = f.paused ? "resume" : "pause";
    const limits = Object.entries(f.settings).map(([name, value]) => name + " " + (typeof value === "object" ? Object.values(value).join("/") : value)).join(", ");
    return [acts(link(f.func, () => search({ func: f.func })), f.paused && soft(" paused", "bad")), f.ready, f.grabbed, f.scheduled, f.blocked, f.oldest_ready_age,
      ended == null || !(seconds > 0) ? "" : show(ended * 60 / seconds), total ? show(lost * 100 / total) : "", total ? show(now.run_seconds * 1000 / total) : "", limits,
      acts(button(turn, () => call("POST", "/v1/funcs/" + path(f.func) + "/" + turn)),
        button("failures", async () => { byId("find").func.value = f.func; await failures(f.func); byId("failures").scrollIntoView(); }, null),
        button("settings", () => edit("Settings of " + f.func, f.settings, "max_running, rate {n, per}, weight, max_attempts, dead_func, retain_failed, retain_completed, retain_cancelled (seconds). What is left out has no limit or the default.",
          (read) => call("PUT", "/v1/funcs/" + path(f.func), read)), null))];
  });
  table("t-funcs", [["function"], ["ready", "n"], ["running", "n"], ["scheduled", "n"], ["blocked", "n"], ["oldest waits, s", "n"], ["ended a minute", "n"], ["failed runs, %", "n"], ["mean run, ms", "n"], ["limits"], [""]], rows, "No function has been used yet.");
  byId("names").replaceChildren(...funcs.map((f) => { const option = document.createElement("option"); option.value = f.func; return option; }));
}
async function failures(func) {
  const list = await call("GET", "/v1/errors?last=50" + (func ? "&func=" + path(func) : ""));
  byId("of-failures").textContent = func ? "of " + func : "";
  const rows = list.errors.map((e) => {
    const isDead = dead.some((d) => d.handle === e.handle);
    return [when(e.time), e.func, acts(jobLink(e.handle)), e.message, acts(button("retry", () => isDead ? retry(e.handle) : now(e.handle), "Job " + number(e.handle) + " runs again"))];
  });
  table("t-failures", [["time"], ["function"], ["job"], ["error"], [""]], rows, "Nothing failed within a week.");
}
async function search(asked) {
  query = asked;
  for (const name of ["func", "state", "coalesce_prefix", "after"]) byId("find")[name].value = asked[name] || "";
  await found();
  byId("search").scrollIntoView();
}
async function found() {
  if (!query) { table("t-jobs", [[""]], [], "Search by function, state or coalescing value, or open a job by its handle."); return; }
  const parts = Object.entries(query).filter(([, value]) => value).map(([name, value]) => name + "=" + path(value));
  const list = (await call("GET", "/v1/jobs?limit=100&" + parts.join("&"))).jobs;
  const rows = list.map((j) => [acts(jobLink(j.handle)), j.func, j.state, j.finished_at ? when(j.finished_at) : j.state === "blocked" ? "its turn" : when(j.run_after), j.uniqkey ?? j.coalesce,
    (argument(j) ?? "").slice(0, 120) + (j.arg_cut ? "…" : ""),
    acts(j.finished_at && j.state !== "completed" && button("retry", () => retry(j.handle)), j.state === "scheduled" && button("run now", () => now(j.handle)),
      !j.finished_at && j.state !== "grabbed" && button("edit", async () => change(await call("GET", "/v1/jobs/" + j.handle)), null), !j.finished_at && button("cancel", () => call("DELETE", "/v1/jobs/" + j.handle)))]);
  table("t-jobs", [["job"], ["function"], ["state"], ["time"], ["key"], ["argument"], [""]], rows, "No such job.");
  byId("more").hidden = list.length < 100 || list[0].finished_at;
  byId("more").onclick = () => search({ ...query, after: list[list.length - 1].handle }).catch((error) => say(error.message, "bad"));
}
function others(workers, cron, batches, databases) {
  const order = (w, what) => button(what, () => call("POST", "/v1/workers/" + path(w.worker) + "/" + what));
  table("t-workers", [["worker"], ["state"], ["functions"], ["running", "n"], ["seen, s ago", "n"], ["daemon"], [""]], workers.map((w) => [w.worker || "(no name)",
    soft(w.state + (w.wanted ? ", told " + w.wanted : ""), w.state === "dead" ? "bad" : ""), w.funcs.join(", "), w.running, w.age, w.daemon,
    w.worker ? acts(w.wanted ? order(w, "resume") : order(w, "quiet"), w.wanted !== "stop" && order(w, "stop"), w.running > 0 && button("goodbye", () => call("POST", "/v1/workers/" + path(w.worker) + "/goodbye"), "Its jobs are ready again")) : ""]), "No worker with a name has asked.");
  table("t-cron", [["name"], ["when"], ["function"], ["last"], ["next"], [""]], cron.map((c) => [c.name, c.spec + " " + c.zone, c.job && c.job.func, c.last_at ? when(c.last_at) : "never", when(c.next_at),
    acts(button("run now", () => call("POST", "/v1/cron/" + path(c.name) + "/run")), button("edit", () => entry(c.name, { spec: c.spec, zone: c.zone, catch_up: c.catch_up, job: c.job }), null),
      button("delete", () => call("DELETE", "/v1/cron/" + path(c.name))))]), "There are no periodic jobs.");
  table("t-batches", [["batch"], ["state"], ["jobs", "n"], ["completed", "n"], ["failed", "n"], ["made"], ["finished"], [""]], batches.map((b) => [number(b.batch), b.finished_at ? "finished" : b.open ? "open" : "running", b.jobs, b.done, b.failed,
    when(b.created_at), when(b.finished_at), acts(b.open && button("close", () => call("POST", "/v1/batches/" + b.batch + "/close")))]), "There are no batches.");
  table("t-databases", [["address"], ["state"], ["handles begin with"], ["upkeep led by"]], databases.databases.map((d) => [d.address, soft(d.up ? "up" : "down", d.up ? "good" : "bad"), d.handles, d.leads ? "this daemon" : "another"]), "");
  byId("daemon").textContent = databases.daemon;
}
function entry(name, value) {
  edit(name ? "Periodic job " + name : "New periodic job", name ? value : { name: "every-hour", ...value }, "spec: minute hour day month weekday, @hourly, @every 5m; zone: an IANA name; catch_up: none, one, all.", (read) => {
    const { name: given, ...rest } = read;
    return call("PUT", "/v1/cron/" + path(name || given || ""), rest);
  });
}
function tiles(funcs, workers) {
  const sum = (name) => funcs.reduce((all, f) => all + f[name], 0), oldest = Math.max(0, ...funcs.map((f) => f.oldest_ready_age));
  const all = [["ready", sum("ready")], ["running", sum("grabbed")], ["scheduled", sum("scheduled")], ["blocked", sum("blocked")], ["oldest waits, s", oldest, oldest > 60],
    ["failed for good" + (dead.length === 50 ? ", or more" : ""), dead.length, dead.length > 0], ["functions paused", funcs.filter((f) => f.paused).length], ["workers alive", workers.filter((w) => w.state === "alive").length]];
  byId("tiles").replaceChildren(...all.map(([name, value, bad]) => { const tile = document.createElement("div"), b = document.createElement("b"), text = document.createElement("span"); tile.className = "tile"; b.textContent = value; if (bad) b.className = "bad"; text.textContent = name; tile.append(b, text); return tile; }));
}
async function all() {
  const [funcs, failed, workers, cron, batches, databases] = await Promise.all([call("GET", "/v1/funcs"), call("GET", "/v1/jobs?state=failed&limit=50"), call("GET", "/v1/workers"),
    call("GET", "/v1/cron").catch(() => ({ cron: [] })), call("GET", "/v1/batches").catch(() => ({ batches: [] })), call("GET", "/v1/databases")]);
  dead = failed.jobs;
  functions(funcs.funcs, before && funcs.up_seconds - before.at);
  tiles(funcs.funcs, workers.workers);
  if (!before || funcs.up_seconds > before.at + 30 || funcs.up_seconds < before.at) before = { at: funcs.up_seconds, funcs: new Map(funcs.funcs.map((f) => [f.func, f.since_start])) };
  table("t-dead", [["job"], ["function"], ["runs", "n"], ["ended"], [""]], dead.map((d) => [acts(jobLink(d.handle)), d.func, d.attempt, when(d.finished_at), acts(button("retry", () => retry(d.handle), "Job " + number(d.handle) + " is ready again"))]), "No job has failed for good.");
  byId("every").hidden = !dead.length;
  others(workers.workers, cron.cron, batches.batches, databases);
  await failures(byId("of-failures").textContent.replace(/^of /, ""));
  await found();
}
const refresh = () => all().then(() => say("", ""), (error) => say(error.message, "bad"));
byId("again").onclick = refresh;
byId("token").onchange = refresh;
byId("every").onclick = async () => { try { const done = await call("POST", "/v1/retry", {}); await all(); say(done.retried + " are ready again" + (done.duplicates ? ", " + done.duplicates + " stay: their keys are pending" : ""), "good"); } catch (error) { say(error.message, "bad"); } };
byId("add-cron").onclick = () => entry("", { spec: "@hourly", zone: "", catch_up: "none", job: { func: "", args: {} } });
byId("find").onsubmit = async (event) => {
  event.preventDefault();
  const asked = Object.fromEntries(new FormData(byId("find")));
  try { if (asked.handle) await job(asked.handle.trim()); else { delete asked.handle; await search(asked); } say("", ""); } catch (error) { say(error.message, "bad"); }
};
setInterval(() => { if (byId("auto").checked && !document.hidden && !byId("box").open) refresh(); }, 5000);
refresh().then(() => { const asked = /^#job=([0-9a-f]{32}-[0-9]+)$/.exec(location.hash); if (asked) job(asked[1]).catch((error) => say(error.message, "bad")); });
