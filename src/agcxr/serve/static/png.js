// Gray PNG, 8 or 16 bits -> its true pixels. Browsers give a canvas only 8 bits, so the page reads PNG itself.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

/** bytes: Uint8Array. Returns {width, height, bits, data}, data a Uint8Array or Uint16Array in rows. */
export async function decodePng(bytes) {
  if (SIGNATURE.some((byte, i) => bytes[i] !== byte)) throw new Error("The server's picture is not a PNG.");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const width = view.getUint32(16), height = view.getUint32(20), bits = bytes[24];
  if (bytes[25] !== 0 || bytes[28] !== 0 || (bits !== 8 && bits !== 16)) throw new Error("The server's picture has an unexpected form.");
  const parts = [];
  for (let at = 8; at + 12 <= bytes.length;) {
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (kind === "IDAT") parts.push(bytes.subarray(at + 8, at + 8 + length));
    if (kind === "IEND") break;
    at += 12 + length;
  }
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  const rows = new Uint8Array(await new Response(stream).arrayBuffer());
  const step = bits / 8, stride = width * step;
  if (rows.length < (stride + 1) * height) throw new Error("The server's picture was cut off.");
  return { width, height, bits, data: unfilter(rows, stride, height, step) };
}

/** Undo the row filters of PNG (its chapter 9) and join bytes to 16-bit values. */
function unfilter(rows, stride, height, step) {
  const out = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    const filter = rows[y * (stride + 1)], from = y * (stride + 1) + 1, to = y * stride, up = to - stride;
    for (let i = 0; i < stride; i++) {
      const a = i >= step ? out[to + i - step] : 0;
      const b = y ? out[up + i] : 0;
      let guess = 0;
      if (filter === 1) guess = a;
      else if (filter === 2) guess = b;
      else if (filter === 3) guess = (a + b) >> 1;
      else if (filter === 4) {
        const c = y && i >= step ? out[up + i - step] : 0;
        const pa = Math.abs(b - c), pb = Math.abs(a - c), pc = Math.abs(a + b - 2 * c);
        guess = pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
      }
      out[to + i] = rows[from + i] + guess;
    }
  }
  if (step === 1) return out;
  const values = new Uint16Array(out.length / 2);
  for (let i = 0, j = 0; i < values.length; i++, j += 2) values[i] = (out[j] << 8) | out[j + 1];
  return values;
}

/** base64 -> bytes. */
export function fromBase64(text) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}
