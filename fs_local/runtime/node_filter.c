/* Answers llama.cpp's eval callback (cb_eval), which is called for every graph node, without entering Python for most.
 *
 * Only `l_out-{layer}` of some layers is asked for: of wanted ones, where the Python callback is called, and of those where
 * vectors are to be added to rows, which is done here. Needs no header of llama.cpp: the addresses of the few ggml functions
 * and that of the Python callback come in a struct that Python fills. Knows nothing of Python's objects either, and runs
 * without the GIL; a callback made by ctypes takes it by itself.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct ggml_tensor;
typedef bool (*eval_callback)(struct ggml_tensor *tensor, bool ask, void *user_data);

/* `count` rows from row `first` on get `vector` added. The same fields as fs_local.runtime.node_filter._Run. */
struct run {
    int32_t first, count;
    const float *vector;
};

/* The same fields as fs_local.runtime.node_filter._Runs. */
struct runs {
    const struct run *run;
    int64_t n;
};

/* The same fields as fs_local.runtime.node_filter._State. */
struct state {
    const char *(*get_name)(const struct ggml_tensor *tensor);
    int64_t (*n_rows)(const struct ggml_tensor *tensor);
    void (*tensor_get)(const struct ggml_tensor *tensor, void *data, size_t offset, size_t size);
    void (*tensor_set)(struct ggml_tensor *tensor, const void *data, size_t offset, size_t size);
    eval_callback python;
    const uint8_t *wanted;     /* one byte a layer */
    const struct runs *added;  /* one a layer */
    float *rows;               /* room for `room` rows of `width` numbers */
    int64_t width;
    int32_t n_layer;
    bool on;
    bool skip;    /* nothing is to be computed */
    bool stopped; /* nothing more is to be computed in this decode */
    int64_t room;
};

/* The layer of `l_out-{layer}`; -1 for any other tensor. */
static long layer_of(const struct state *state, const struct ggml_tensor *tensor)
{
    static const char prefix[] = "l_out-";
    const char *name = state->get_name(tensor);
    if (strncmp(name, prefix, sizeof prefix - 1) != 0)
        return -1;
    const char *digits = name + sizeof prefix - 1;
    char *end;
    long layer = strtol(digits, &end, 10);
    return end != digits && *end == '\0' && layer >= 0 && layer < state->n_layer ? layer : -1;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Reads and writes whole stretches of rows: where memory is not the host's, each is a journey. */
static void add(const struct state *state, struct ggml_tensor *tensor, const struct runs *runs)
{
    const int64_t n_rows = state->n_rows(tensor), width = state->width;
    const size_t size = (size_t)width * sizeof(float);
    int64_t first = n_rows, end = 0;
    for (int64_t i = 0; i < runs->n; i++) {
        first = least(first, runs->run[i].first);
        end = most(end, (int64_t)runs->run[i].first + runs->run[i].count);
    }
    end = least(end, n_rows);
    for (int64_t at = first; at < end; at += state->room) {
        const int64_t stop = least(at + state->room, end);
        state->tensor_get(tensor, state->rows, (size_t)at * size, (size_t)(stop - at) * size);
        for (int64_t i = 0; i < runs->n; i++) {
            const struct run *run = &runs->run[i];
            const int64_t last = least((int64_t)run->first + run->count, stop);
            for (int64_t row = most(run->first, at); row < last; row++) {
                float *numbers = state->rows + (row - at) * width;
                for (int64_t k = 0; k < width; k++)
                    numbers[k] += run->vector[k];
            }
        }
        state->tensor_set(tensor, state->rows, (size_t)at * size, (size_t)(stop - at) * size);
    }
}

static bool on_node(struct ggml_tensor *tensor, bool ask, void *user_data)
{
    struct state *state = user_data;
    /* False ends one part of the graph alone, of which there are several with several devices: in each that follows, the first
     * node is asked for, and then it ends too */
    if (state->skip || state->stopped)
        return ask;
    if (!state->on)
        return false;
    const long layer = layer_of(state, tensor);
    if (layer < 0 || !(state->wanted[layer] || state->added[layer].n))
        return false;
    if (ask)
        return true;
    if (state->wanted[layer])
        state->stopped = !state->python(tensor, false, NULL);
    if (!state->stopped && state->added[layer].n) /* looked up anew: Python may have set it */
        add(state, tensor, &state->added[layer]);
    return !state->stopped;
}

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_node_filter", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__node_filter(void)
{
    PyObject *self = PyModule_Create(&module);
    if (self == NULL)
        return NULL;
    if (PyModule_AddObject(self, "on_node", PyLong_FromVoidPtr((void *)on_node)) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}
