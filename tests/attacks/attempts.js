// Everything by which a page can send a request to `target`, or read what is there: for each what was read, or null. A
// try that has not come to an end after `patience` milliseconds has read nothing.
async ({ target, paths, patience, pause, remove, cancel }) => {
  const found = {};
  const job = '{"command":"touch canary"}';
  const newFrame = (name = "") => {
    const frame = Object.assign(document.createElement("iframe"), { name });
    document.body.append(frame);
    return frame;
  };
  const soon = (promise) => Promise.race([promise, new Promise((done) => setTimeout(done, patience, null))]);
  const tries = [];
  const attempt = (name, act) => tries.push(soon(Promise.resolve().then(act)).then(
    (read) => { found[name] = read ?? null; },
    () => { found[name] = null; },
  ));
  const text = async (answer) => answer.type === "opaque" || answer.type === "opaqueredirect" ? null : answer.text();

  for (const mode of ["cors", "no-cors", "same-origin"]) {
    for (const path of paths) {
      if (!path.endsWith("events")) {
        attempt(`fetch ${mode} ${path}`, async () => text(await fetch(target + path, { mode, credentials: "include" })));
      }
    }
    for (const type of ["text/plain", "application/json", "application/x-www-form-urlencoded"]) {
      const options = { method: "POST", mode, credentials: "include", headers: { "Content-Type": type }, body: job };
      attempt(`post ${mode} ${type}`, async () => text(await fetch(`${target}/api/jobs`, options)));
      attempt(`keepalive ${mode} ${type}`, async () =>
        text(await fetch(`${target}/api/jobs`, { ...options, keepalive: true, redirect: "manual" })));
    }
    attempt(`bare post ${mode}`, async () => text(await fetch(`${target}${pause}`, { method: "POST", mode })));
    attempt(`delete ${mode}`, async () => text(await fetch(`${target}${remove}`, { method: "DELETE", mode })));
  }

  for (const [verb, type] of [["GET", null], ["POST", "text/plain"], ["POST", "application/json"], ["DELETE", null]]) {
    attempt(`xhr ${verb} ${type}`, () => new Promise((done) => {
      const xhr = new XMLHttpRequest();
      xhr.open(verb, target + (verb === "DELETE" ? remove : "/api/jobs"));
      xhr.withCredentials = true;
      if (type) xhr.setRequestHeader("Content-Type", type);
      xhr.onloadend = () => done(xhr.responseText || null);
      xhr.send(type ? job : null);
    }));
  }

  attempt("beacon", () => { navigator.sendBeacon(`${target}/api/jobs`, job); });
  attempt("json beacon", () => {
    navigator.sendBeacon(`${target}/api/jobs`, new Blob([job], { type: "application/json" }));
  });
  for (const path of paths.filter((each) => each.endsWith("events"))) {
    attempt(`EventSource ${path}`, () => new Promise((done) => {
      const source = new EventSource(target + path, { withCredentials: true });
      const end = (read) => { source.close(); done(read); };
      for (const name of ["open", "message", "status", "stdout"]) source.addEventListener(name, () => end(name));
      source.onerror = () => end(null);
    }));
    attempt(`WebSocket ${path}`, () => new Promise((done) => {
      const socket = new WebSocket(target.replace("http", "ws") + path);
      socket.onopen = () => done("open");
      socket.onclose = () => done(null);
    }));
  }

  const elements = { script: "src", img: "src", link: "href", video: "src", audio: "src", embed: "src" };
  for (const [kind, attribute] of Object.entries(elements)) {
    for (const path of paths.filter((each) => !each.endsWith("events"))) {
      attempt(`${kind} ${path}`, () => new Promise((done) => {
        const element = document.createElement(kind);
        if (kind === "link") element.rel = "stylesheet";
        element.onload = () => done(element.contentDocument?.body?.textContent ?? (kind === "link" || kind === "script" ? "loaded" : null));
        element.onerror = () => done(null);
        element[attribute] = target + path;
        document.body.append(element);
      }));
    }
  }
  for (const path of paths.filter((each) => !each.endsWith("events"))) {
    attempt(`module ${path}`, async () => Object.keys(await import(target + path)).join() || "imported");
    attempt(`iframe ${path}`, () => new Promise((done) => {
      const frame = newFrame();
      frame.onload = () => done(frame.contentDocument?.body?.textContent || null);
      frame.src = target + path;
    }));
  }
  attempt("worker", () => new Promise((done) => {
    const worker = new Worker(`${target}${paths[0]}`);
    worker.onmessage = () => done("message");
    worker.onerror = () => done(null);
  }));

  const fields = {
    "text/plain": ['{"command":"touch canary","labels":{"a":"', '"}}'],
    "application/x-www-form-urlencoded": ["command", "touch canary"],
    "multipart/form-data": ["command", "touch canary"],
  };
  for (const [enctype, [name, value]] of Object.entries(fields)) {
    for (const path of ["/api/jobs", pause, cancel]) {
      attempt(`form ${enctype} ${path}`, () => new Promise((done) => {
        const frame = newFrame(`${enctype} ${path}`.replaceAll(/\W/g, "_"));
        const form = Object.assign(document.createElement("form"), {
          method: "POST", action: target + path, enctype, target: frame.name,
        });
        form.append(Object.assign(document.createElement("input"), { name, value }));
        document.body.append(form);
        frame.onload = () => {
          if (frame.contentWindow.length || !frame.contentDocument?.URL.startsWith("about:")) {
            done(frame.contentDocument?.body?.textContent || null);
          }
        };
        form.submit();
      }));
    }
  }
  attempt("window", () => new Promise((done) => {
    const opened = window.open(`${target}/api/jobs`);
    setTimeout(() => {
      try { done(opened.document.body.textContent || null); } catch { done(null); }
      opened?.close();
    }, 500);
  }));
  attempt("opaque", () => new Promise((done) => {
    addEventListener("message", ({ data }) => done(data));
    const frame = newFrame();
    frame.sandbox = "allow-scripts allow-forms";
    frame.srcdoc = `<script>
      fetch("${target}/api/jobs", { method: "POST", mode: "no-cors", body: '${job}' }).catch(() => {});
      fetch("${target}/api/jobs").then((got) => got.text()).then((read) => parent.postMessage(read, "*"),
                                                                  () => parent.postMessage(null, "*"));
    </script>`;
  }));
  attempt("ping", () => {
    const link = Object.assign(document.createElement("a"), { href: "#", ping: `${target}${pause}` });
    document.body.append(link);
    link.click();
  });
  await Promise.all(tries);
  return found;
}
