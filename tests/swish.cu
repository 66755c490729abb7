// x * logistic(beta * x), and its gradient; a thread per element.
extern "C" __global__ void swish(int64 count, const real* x, real beta, real* out) {
    for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) out[i] = x[i] * logistic(beta * x[i]);
}
extern "C" __global__ void swish_backward(int64 count, const real* grad, const real* x, real beta, real* grad_x) {
    for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) {
        real s = logistic(beta * x[i]);
        grad_x[i] = grad[i] * s * (1 + beta * x[i] * (1 - s));
    }
}
