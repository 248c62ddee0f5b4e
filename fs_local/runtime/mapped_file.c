/* Keeps a process alive when a file that it has mapped is cut short.
 *
 * llama.cpp maps a model's file. Reading a page that the file no longer has raises SIGBUS, which ends the process. In a watched range
 * such pages, and all behind them, are replaced by zeros, and it is noted: whoever computes looks at the note, and throws the results away.
 * Any other SIGBUS does what it did before.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#define MOST 256

/* A range that is watched; `lost` is what Python looks at. */
struct range {
    volatile uintptr_t start, end;
    volatile sig_atomic_t lost;
};

static struct range ranges[MOST];
static struct sigaction before;
static uintptr_t page_size;
static int installed;

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    const uintptr_t page = (uintptr_t)info->si_addr & ~(page_size - 1);
    for (int i = 0; i < MOST; i++) {
        struct range *r = &ranges[i];
        if (r->end == 0 || page < r->start || page >= r->end)
            continue;
        if (mmap((void *)page, r->end - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
            break;
        r->lost = 1;
        return; /* what was read is read again */
    }
    sigaction(SIGBUS, &before, NULL); /* not ours: the read is repeated, and the handler that was there before meets it */
}

/* watch(start, end) -> the number of the range; -1 where there are too many. */
static PyObject *watch(PyObject *self, PyObject *args)
{
    unsigned long long start, end;
    (void)self;
    if (!PyArg_ParseTuple(args, "KK", &start, &end))
        return NULL;
    if (!installed) {
        struct sigaction action = {0};
        page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
        action.sa_sigaction = on_bus_error;
        action.sa_flags = SA_SIGINFO;
        sigemptyset(&action.sa_mask);
        if (sigaction(SIGBUS, &action, &before) != 0)
            return PyErr_SetFromErrno(PyExc_OSError);
        installed = 1;
    }
    for (int i = 0; i < MOST; i++) {
        if (ranges[i].end == 0) {
            ranges[i].lost = 0;
            ranges[i].start = (uintptr_t)start;
            ranges[i].end = (uintptr_t)end;
            return PyLong_FromLong(i);
        }
    }
    return PyLong_FromLong(-1);
}

/* is_lost(number) */
static PyObject *is_lost(PyObject *self, PyObject *number)
{
    (void)self;
    const long i = PyLong_AsLong(number);
    return PyBool_FromLong(i >= 0 && i < MOST && ranges[i].lost);
}

/* forget(number): before the range is unmapped. */
static PyObject *forget(PyObject *self, PyObject *number)
{
    (void)self;
    const long i = PyLong_AsLong(number);
    if (i >= 0 && i < MOST)
        ranges[i].end = 0;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"watch", watch, METH_VARARGS, NULL},
    {"is_lost", is_lost, METH_O, NULL},
    {"forget", forget, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_mapped_file", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__mapped_file(void)
{
    return PyModule_Create(&module);
}
