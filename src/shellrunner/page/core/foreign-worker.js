/* Service workers of others. The page registers none, so one that controls it was left behind by another program that
   listened at this address, and would receive every request with its token. It must not know about the page's elements. */

const container = navigator.serviceWorker; // absent where the origin is not trustworthy: then there are none

/** Whether requests of this page pass through a service worker. */
export const isIntercepted = () => Boolean(container?.controller);

/** Unregister every service worker of this origin, and delete what they cached. */
export async function removeForeignWorkers() {
  const registrations = (await container?.getRegistrations()) ?? [];
  await Promise.all(registrations.map((each) => each.unregister()));
  if (registrations.length) await Promise.all((await caches.keys()).map((name) => caches.delete(name)));
}

/** Call `listener` if a service worker takes over the page while it is open. */
export function onIntercepted(listener) {
  container?.addEventListener("controllerchange", () => isIntercepted() && listener());
}
