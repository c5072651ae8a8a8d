// Small helpers of the page.

export const by = (id) => document.getElementById(id);

export const whole = (value) => Math.round(value).toString();

// Set a text only where it differs: screen readers read a live region again at each change.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Send a change; the answer, the node's own reason where it refuses, goes to an element.
export async function post(path, body, answer, done) {
  let result;
  try {
    const response = await fetch(path, { method: "POST", body: JSON.stringify(body),
      headers: { "Content-Type": "application/json" } });
    result = await response.json();
  } catch {
    result = { ok: false, reason: "specprune view cannot be reached" };
  }
  answer.classList.toggle("refused", !result.ok);
  answer.textContent = result.ok ? done : `Refused: ${result.reason}`;
  return result.ok;
}
