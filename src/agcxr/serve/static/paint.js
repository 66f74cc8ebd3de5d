// Small canvases: a gray picture, a heatmap in colour.

// Stops of "inferno" (matplotlib, CC0), the map of the saved pictures too.
const INFERNO = ["000004", "160b39", "420a68", "6a176e", "932667", "bc3754", "dd513a", "f37819", "fca50a", "f6d746", "fcffa4"];
const STOPS = INFERNO.map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));

function inferno(share) {
  const at = share * (STOPS.length - 1), low = Math.min(Math.floor(at), STOPS.length - 2), rest = at - low;
  return STOPS[low].map((value, i) => value + rest * (STOPS[low + 1][i] - value));
}

/** Gray picture -> canvas. */
export function grayCanvas({ width, height, bits, data }) {
  return filled(width, height, (out, i) => {
    const value = bits === 16 ? data[i] >> 8 : data[i];
    out[4 * i] = out[4 * i + 1] = out[4 * i + 2] = value;
    out[4 * i + 3] = 255;
  });
}

/** Heat 0..255 -> canvas in colour; cold parts are clear, so that the anatomy stays readable. */
export function heatCanvas({ width, height, data }) {
  const table = Array.from({ length: 256 }, (_, heat) => {
    const [r, g, b] = inferno(heat / 255);
    const alpha = Math.pow(Math.max(heat / 255 - 0.25, 0) / 0.75, 0.75);
    return [r, g, b, 255 * alpha];
  });
  return filled(width, height, (out, i) => {
    const colour = table[data[i]];
    for (let c = 0; c < 4; c++) out[4 * i + c] = colour[c];
  });
}

function filled(width, height, paint) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) paint(image.data, i);
  context.putImageData(image, 0, 0);
  return canvas;
}
