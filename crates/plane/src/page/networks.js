// Networks as ranges of numbers, so that two are compared whatever they look like.

/** {from, to, bits}, or null where it is none. */
export function network(text) {
  const [address, length, ...rest] = (text ?? "").split("/");
  const number = address.includes(":") ? six(address) : four(address);
  const bits = address.includes(":") ? 128 : 32;
  if (number === null || rest.length || !/^\d{1,3}$/.test(length ?? "") || Number(length) > bits) return null;
  const host = BigInt(bits - Number(length));
  const from = (number >> host) << host;
  return { from, to: from + (1n << host) - 1n, bits };
}

export const overlap = (a, b) => a.bits === b.bits && a.from <= b.to && b.from <= a.to;

function four(text) {
  const parts = text.split(".");
  if (parts.length !== 4 || !parts.every((p) => /^\d{1,3}$/.test(p) && Number(p) < 256)) return null;
  return parts.reduce((sum, part) => (sum << 8n) + BigInt(part), 0n);
}

function six(text) {
  if (text.indexOf("::") !== text.lastIndexOf("::") || !/^[0-9a-f:]+$/i.test(text)) return null;
  const [head, tail] = text.split("::").map((half) => half.split(":").filter(Boolean));
  const gap = tail ? 8 - head.length - tail.length : 0;
  const parts = tail ? [...head, ...Array(Math.max(gap, 0)).fill("0"), ...tail] : head;
  if (parts.length !== 8 || (tail && gap < 1) || !parts.every((p) => /^[0-9a-f]{1,4}$/i.test(p))) return null;
  return parts.reduce((sum, part) => (sum << 16n) + BigInt(`0x${part}`), 0n);
}
