// SPDX-License-Identifier: Apache-2.0
// Keys and values of one attention: block i of 64 positions at i * BLOCK_WORDS, head after head, each its keys, then its
// values, the bytes of kernels/attention/attention.h. FORMAT: 1 f16, 2 kv8, 3 k8v4.
#define HEAD_SIZE p[0]
#define HEAD_PADDED p[1]
#define KV_HEADS p[2]
#define BLOCK_WORDS p[3]
#define HEAD_WORDS p[4]
#define KEY_WORDS p[5]
#define K_BASE p[6]
#define K_STRIDE p[7]
#define V_BASE p[8]
#define V_STRIDE p[9]
#define Q_BASE p[10]
#define Q_STRIDE p[11]
#define OUT_BASE p[12]
#define OUT_STRIDE p[13]
#define QUERY_GROUP p[14]
#define WINDOW p[15]
#define SINKS p[16]
#define SCALE uintBitsToFloat(p[17])
#define SPLIT_BLOCKS p[18]
#define SPLITS p[19]
#define M p[20]
#define MOST_D 256

float larger(float a, float b) { return a > b ? a : b; }

#if FORMAT != 1
shared float turned[MOST_D];
shared float largest[64];

// The largest magnitude in `turned`, in every lane.
float largest_of(uint lane) {
    float most = 0.0;
    for (uint i = lane; i < HEAD_PADDED; i += 64u) {
        most = larger(abs(turned[i]), most);
    }
    barrier();
    largest[lane] = most;
    barrier();
    for (uint i = 0u; i < 64u; i++) {
        most = larger(largest[i], most);
    }
    return most;
}

// In place times the Hadamard matrix of order HEAD_SIZE, a power of two, without its 1 / sqrt(d).
void turn(uint lane) {
    for (uint distance = 1u; distance < HEAD_SIZE; distance *= 2u) {
        barrier();
        for (uint i = lane; i < HEAD_SIZE / 2u; i += 64u) {
            const uint first = i / distance * 2u * distance + i % distance;
            const float a = turned[first], b = turned[first + distance];
            turned[first] = a + b;
            turned[first + distance] = a - b;
        }
    }
    barrier();
}
#endif
