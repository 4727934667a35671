// Sends something that changes something.

const csrf = document.querySelector('meta[name="csrf"]').content;

/** As fetch, by POST, with what proves that this page sent it. */
export function post(path, body, options = {}) {
  return fetch(path, {
    method: "POST",
    body,
    ...options,
    headers: { ...options.headers, "X-CSRF-Token": csrf },
  });
}
