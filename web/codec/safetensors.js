// Tensors of a .safetensors file: {shape, data} by name. Integers keep their type; float16 becomes float32.

const TYPES = { I8: Int8Array, U8: Uint8Array, I16: Int16Array, U16: Uint16Array, I32: Int32Array, F32: Float32Array };

export function parseTensors(bytes) {
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  delete header.__metadata__;
  return Object.fromEntries(
    Object.entries(header).map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [begin, end],
        },
      ]) => {
        const raw = bytes.slice(8 + length + begin, 8 + length + end).buffer; // a copy is aligned
        const data = dtype === "F16" ? toFloat32(new Uint16Array(raw)) : new TYPES[dtype](raw);
        return [name, { shape, data }];
      },
    ),
  );
}

function toFloat32(halves) {
  return Float32Array.from(halves, (half) => {
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
  });
}
