// The browser's own JPEG and WebP of at most so many bytes.

/** {blob, quality, reached} of the best quality that fits; reached is false where even the worst has more bytes.
 *  null where the browser does not write that type. */
export async function ofSize(canvas, type, bytes) {
  let best = null;
  for (let low = 0, high = 100; low <= high;) {
    const quality = (low + high) >> 1;
    const blob = await written(canvas, type, quality);
    if (!blob) return null;
    if (blob.size <= bytes) [best, low] = [{ blob, quality, reached: true }, quality + 1];
    else high = quality - 1;
  }
  return best ?? { blob: await written(canvas, type, 0), quality: 0, reached: false };
}

async function written(canvas, type, quality) {
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, type, quality / 100));
  return blob?.type === type ? blob : null; // browsers write PNG instead of what they do not know
}
