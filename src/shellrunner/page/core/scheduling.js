/* Limits on how often something is done. */

/** A function that calls `work` once in the next animation frame, however often it is called before that. */
export function oncePerFrame(work) {
  let scheduled = false;
  return () => {
    if (scheduled) return;
    scheduled = true;
    const schedule = document.hidden ? setTimeout : requestAnimationFrame; // a hidden tab has no animation frames
    schedule(() => {
      scheduled = false;
      work();
    });
  };
}

/** A function that calls `work` at most once per `interval` milliseconds and never concurrently, or sooner where it is
    called with a shorter delay. Calls are never lost: one made while `work` runs schedules another run. */
export function throttle(interval, work) {
  let timer = null;
  let delay = Infinity; // of the run that was asked for
  let running = false;
  async function run() {
    timer = null;
    delay = Infinity;
    running = true;
    try {
      await work();
    } finally {
      running = false;
      if (delay < Infinity) timer = setTimeout(run, delay);
    }
  }
  return (wanted = interval) => {
    if (wanted >= delay) return;
    delay = wanted;
    clearTimeout(timer);
    if (!running) timer = setTimeout(run, delay);
  };
}

/** Call `work` after the next frame has been drawn; at once in a hidden tab, where nothing is drawn. */
export function afterFrame(work) {
  if (document.hidden) return work();
  const timer = setTimeout(run, 250); // the tab may be hidden before the frame comes
  const frame = requestAnimationFrame(run);
  function run() {
    clearTimeout(timer);
    cancelAnimationFrame(frame);
    work();
  }
}
