/* The rules of "auto" over made-up machines: which hold, which decides. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "factory/select.h"
#include "fixtures.h"

enum { NO_GPU, H100, GH200, H200_WITHOUT_A_NAME, A100, RTX };

static const da_gpu gpus[] = {
    [NO_GPU] = {"", 0, 0, 0},
    [H100] = {"NVIDIA H100 80GB HBM3", 9, 0, 80000000000},
    [GH200] = {"NVIDIA GH200 480GB", 0, 0, 96000000000},
    [H200_WITHOUT_A_NAME] = {"", 9, 0, 141000000000},
    [A100] = {"NVIDIA A100-SXM4-40GB", 8, 0, 40000000000},
    [RTX] = {"NVIDIA GeForce RTX 4090", 8, 9, 24000000000},
};

typedef struct machine {
    const char *name;
    int gpu, gpu_count;
    bool flash_3, flash_2;
    da_isa isa;
    int64_t length;
    const char *holds; /* one letter a rule: y or n */
    /* Chosen if every implementation could run, and what this version chooses, which has no distributed. */
    const char *by_the_guide, *here;
} machine;

#define CPU_PLAIN NO_GPU, 0, false, false, DA_ISA_PORTABLE
#define CPU_AVX2 NO_GPU, 0, false, false, DA_ISA_AVX2
#define CPU_AVX512 NO_GPU, 0, false, false, DA_ISA_AVX512

static const machine machines[] = {
    {"CPU, unknown length", CPU_PLAIN, 0, "nnnnny", "standard", "standard"},
    {"CPU, one token", CPU_PLAIN, 1, "nnnnny", "standard", "standard"},
    {"CPU with AVX2", CPU_AVX2, 0, "nnnnyy", "improved", "improved"},
    {"CPU with AVX-512", CPU_AVX512, 4096, "nnnnyy", "improved", "improved"},
    {"CPU, 100,000 tokens", CPU_PLAIN, 100000, "nnnnny", "standard", "standard"},
    {"CPU, 100,001 tokens", CPU_PLAIN, 100001, "nnynny", "ring", "ring"},
    {"CPU with AVX2, 100,000 tokens", CPU_AVX2, 100000, "nnnnyy", "improved", "improved"},
    {"CPU with AVX2, 100,001 tokens", CPU_AVX2, 100001, "nnynyy", "ring", "ring"},
    {"CPU, the largest length", CPU_AVX2, INT64_MAX, "nnynyy", "ring", "ring"},
    {"CPU, flash attention 2 without a GPU", NO_GPU, 0, false, true, DA_ISA_PORTABLE, 0, "nnnnny", "standard",
     "standard"},
    {"CPU, flash attention 3 without a GPU", NO_GPU, 0, true, false, DA_ISA_PORTABLE, 0, "nnnnny", "standard",
     "standard"},
    {"H100, flash attention 3", H100, 1, true, false, DA_ISA_PORTABLE, 4096, "nynnyy", "improved", "improved"},
    {"H100, flash attention 3, very long", H100, 1, true, true, DA_ISA_AVX512, 1000000, "nyynyy", "improved",
     "improved"},
    {"8 H100, flash attention 3, very long", H100, 8, true, true, DA_ISA_AVX512, 1000000, "nyyyyy", "improved",
     "improved"},
    {"GH200 known by its name, flash attention 3", GH200, 1, true, false, DA_ISA_PORTABLE, 0, "nynnyy", "improved",
     "improved"},
    {"known by its compute capability, flash attention 3", H200_WITHOUT_A_NAME, 1, true, false, DA_ISA_PORTABLE, 0,
     "nynnyy", "improved", "improved"},
    {"H100 without flash attention", H100, 1, false, false, DA_ISA_PORTABLE, 4096, "nnnnny", "standard", "standard"},
    {"H100, flash attention 2", H100, 1, false, true, DA_ISA_PORTABLE, 4096, "nnnnyy", "improved", "improved"},
    {"A100, flash attention 2", A100, 1, false, true, DA_ISA_PORTABLE, 4096, "nnnnyy", "improved", "improved"},
    {"A100, flash attention 3", A100, 1, true, false, DA_ISA_PORTABLE, 4096, "nnnnyy", "improved", "improved"},
    {"A100, flash attention 2, 100,000 tokens", A100, 1, false, true, DA_ISA_PORTABLE, 100000, "nnnnyy", "improved",
     "improved"},
    {"A100, flash attention 2, 100,001 tokens", A100, 1, false, true, DA_ISA_PORTABLE, 100001, "nnynyy", "ring",
     "ring"},
    {"consumer card", RTX, 1, false, false, DA_ISA_PORTABLE, 4096, "nnnnny", "standard", "standard"},
    {"consumer card, CPU with AVX2", RTX, 1, false, false, DA_ISA_AVX2, 4096, "nnnnyy", "improved", "improved"},
    {"1 GPU, 50,000 tokens", RTX, 1, false, false, DA_ISA_PORTABLE, 50000, "nnnnny", "standard", "standard"},
    {"1 GPU, 50,001 tokens", RTX, 1, false, false, DA_ISA_PORTABLE, 50001, "nnnnny", "standard", "standard"},
    {"2 GPUs, 50,000 tokens", RTX, 2, false, false, DA_ISA_PORTABLE, 50000, "nnnnny", "standard", "standard"},
    {"2 GPUs, 50,001 tokens", RTX, 2, false, false, DA_ISA_PORTABLE, 50001, "nnnyny", "distributed", "standard"},
    {"2 GPUs, unknown length", RTX, 2, false, false, DA_ISA_PORTABLE, 0, "nnnnny", "standard", "standard"},
    {"2 GPUs, 100,000 tokens", RTX, 2, false, true, DA_ISA_PORTABLE, 100000, "nnnyyy", "distributed", "improved"},
    {"2 GPUs, 100,001 tokens", RTX, 2, false, true, DA_ISA_PORTABLE, 100001, "nnyyyy", "ring", "ring"},
    {"16 GPUs, 50,001 tokens", A100, DA_MAX_GPUS, false, true, DA_ISA_AVX2, 50001, "nnnyyy", "distributed", "improved"},
};

static da_hardware describe(const machine *row) {
    da_hardware hardware;
    da_hardware_init(&hardware);
    /* Every vector unit, so that the instruction set is the context's choice alone. */
    hardware.cpu_features = DA_CPU_AVX2 | DA_CPU_FMA | DA_CPU_F16C | DA_CPU_AVX512;
    hardware.gpu_count = row->gpu_count;
    for (int k = 0; k < row->gpu_count; k++) {
        hardware.gpus[k] = gpus[row->gpu];
    }
    hardware.flash_attention_3 = row->flash_3;
    hardware.flash_attention_2 = row->flash_2;
    return hardware;
}

static void test_conditions(void **state) {
    (void)state;
    for (size_t m = 0; m < sizeof machines / sizeof *machines; m++) {
        const machine *row = &machines[m];
        const da_hardware hardware = describe(row);
        const da_facts facts = {&hardware, row->isa, row->length, 1, 1};
        const char *chosen = NULL;
        for (int k = 0; k < DA_RULE_COUNT; k++) {
            bool holds = da_selection_rules[k].holds(&facts);
            if (holds != (row->holds[k] == 'y')) {
                fail_msg("%s: rule %d %s", row->name, k + 1, holds ? "holds" : "does not hold");
            }
            chosen = holds && !chosen ? da_selection_rules[k].implementation : chosen;
        }
        if (strcmp(chosen, row->by_the_guide) != 0) {
            fail_msg("%s: %s, not %s", row->name, chosen, row->by_the_guide);
        }
    }
}

static void check_steps(const machine *row, const da_selection_step *steps) {
    bool decided = false;
    for (int k = 0; k < DA_RULE_COUNT; k++) {
        const da_selection_step *step = &steps[k];
        const char *implementation = da_selection_rules[k].implementation;
        bool absent = strcmp(implementation, "distributed") == 0;
        const char *expected = decided        ? "not reached"
                               : !step->holds ? "does not apply"
                               : absent       ? "passed over: the context has no communicator of several ranks"
                                              : "chosen";
        if (strcmp(step->outcome, expected) != 0) {
            fail_msg("%s: the outcome of rule %d is \"%s\", not \"%s\"", row->name, k + 1, step->outcome, expected);
        }
        assert_int_equal(step->holds, row->holds[k] == 'y');
        assert_int_equal(step->chosen, strcmp(expected, "chosen") == 0);
        decided = decided || step->chosen;
    }
    assert_true(decided);
}

static void test_selection(void **state) {
    (void)state;
    int tried = 0;
    for (size_t m = 0; m < sizeof machines / sizeof *machines; m++) {
        const machine *row = &machines[m];
        if (!da_isa_available(row->isa)) {
            continue;
        }
        const da_hardware hardware = describe(row);
        da_context *context = make_context(&hardware, row->isa, NULL);
        const da_demand demand = {row->length, DA_DTYPE_ANY, 0, 1};
        da_selection_step steps[DA_RULE_COUNT];
        const da_entry *entry = NULL;
        assert_int_equal(da_select(context, &demand, steps, &entry), DA_OK);
        if (strcmp(entry->table.name, row->here) != 0) {
            fail_msg("%s: %s, not %s", row->name, entry->table.name, row->here);
        }
        check_steps(row, steps);
        da_context_free(context);
        tried++;
    }
    assert_true(tried > 10);
}

static void test_creation_by_auto(void **state) {
    (void)state;
    const machine rows[] = {
        {"CPU", CPU_PLAIN, 60000, "nnnnny", "standard", "standard"},
        {"A100", A100, 1, false, true, DA_ISA_PORTABLE, 60000, "nnnnyy", "improved", "improved"},
        {"CPU, very long", CPU_PLAIN, 200000, "nnynny", "ring", "ring"},
    };
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        const da_hardware hardware = describe(&rows[k]);
        da_context *context = make_context(&hardware, DA_ISA_PORTABLE, NULL);
        const da_attention_config config = make_config(rows[k].length);
        da_attention *attention = NULL;
        assert_int_equal(da_attention_create(context, "auto", &config, &attention), DA_OK);
        assert_string_equal(da_attention_implementation(attention), rows[k].here);
        da_attention_free(attention);
        da_context_free(context);
    }
}

/* Quality is never traded unasked; asked for, that comes before all else. */
static void test_quality_target(void **state) {
    (void)state;
    const double targets[] = {1, 0.99, 0.5};
    const machine very_long = {"CPU, very long", CPU_PLAIN, 200000, "", "", ""};
    const da_hardware hardware = describe(&very_long);
    da_context *context = make_context(&hardware, DA_ISA_PORTABLE, NULL);
    for (int k = 0; k < 3; k++) {
        da_attention_config config = make_config(very_long.length);
        da_attention *attention = NULL;
        config.quality_target = targets[k];
        config.sparsity_ratio = 0.01;
        assert_int_equal(da_attention_create(context, "auto", &config, &attention), DA_OK);
        assert_string_equal(da_attention_implementation(attention), targets[k] < 1 ? "block_sparse" : "ring");
        da_attention_free(attention);
    }
    da_context_free(context);
}

/* The best that this machine has is what a context of this machine takes. */
static void test_this_machine(void **state) {
    (void)state;
    da_context *context = make_context(NULL, DA_ISA_AUTO, NULL);
    const da_attention_config config = make_config(4096);
    da_attention *attention = NULL;
    bool vectors = da_context_isa(context) != DA_ISA_PORTABLE;
    assert_int_equal(da_attention_create(context, "auto", &config, &attention), DA_OK);
    assert_string_equal(da_attention_implementation(attention), vectors ? "improved" : "standard");
    da_attention_free(attention);
    da_context_free(context);
}

/* Where nothing takes what is demanded, each rule that holds says so. No real demand is like that. */
static void test_nothing_fits(void **state) {
    (void)state;
    da_context *context = make_context(NULL, DA_ISA_PORTABLE, NULL);
    const da_demand demand = {0, (da_dtype)7, 0, 1};
    da_selection_step steps[DA_RULE_COUNT];
    const da_entry *entry = NULL;
    assert_int_equal(da_select(context, &demand, steps, &entry), DA_ERROR_UNSUPPORTED);
    assert_null(entry);
    assert_message_contains("standard, was passed over: does not take data type");
    assert_false(steps[DA_RULE_COUNT - 1].chosen);
    da_context_free(context);
}

static void test_fitting(void **state) {
    (void)state;
    da_context *context = make_context(NULL, DA_ISA_PORTABLE, NULL);
    call_counts counts = {0};
    da_implementation table = counting_implementation("fitting", &counts);
    const da_entry *entry;
    char reason[DA_REASON_SIZE];
    table.features = DA_FEATURE_CAUSAL;
    assert_int_equal(da_register_implementation(&table), DA_OK);
    assert_int_equal(da_registry_find("fitting", &entry), DA_OK);
    assert_true(da_entry_fits(entry, context, &(da_demand){0, DA_F32, DA_FEATURE_CAUSAL, 1}, reason));
    assert_string_equal(reason, "");
    assert_false(da_entry_fits(entry, context, &(da_demand){0, DA_F32, DA_FEATURE_ALL, 1}, reason));
    assert_string_equal(reason, "does not take window, key padding (key_lengths, key_mask), grouped queries (fewer key "
                                "heads than query heads), lse, mixing head_groups, offset_rule block, tail_rule "
                                "zero_pad, overlap once, dropout, query range");
    assert_false(da_entry_fits(entry, context, &(da_demand){0, DA_F64, 0, 1}, reason));
    assert_string_equal(reason, "does not take data type f64; allowed: f32");
    counts.unavailable_because = "nothing to run on";
    assert_false(da_entry_fits(entry, context, &(da_demand){0, DA_F32, 0, 1}, reason));
    assert_string_equal(reason, "nothing to run on");
    da_context_free(context);
}

static void check_facts(const da_facts *facts, int rule, const char *expected) {
    char text[DA_FACTS_SIZE];
    da_selection_rules[rule - 1].describe(facts, text);
    assert_string_equal(text, expected);
}

static void test_facts(void **state) {
    (void)state;
    const machine two_cards = {"", A100, 2, true, false, DA_ISA_AVX512, 0, "", "", ""};
    const machine plain = {"", CPU_PLAIN, 0, "", "", ""};
    da_hardware cards = describe(&two_cards), none = describe(&plain);
    da_facts facts = {&none, DA_ISA_PORTABLE, 0, 1, 1};
    check_facts(&facts, 1, "none");
    check_facts(&facts, 2, "no flash attention 3; no GPU");
    check_facts(&facts, 3, "unknown length");
    check_facts(&facts, 4, "1 rank; 0 GPUs; unknown length");
    check_facts(&facts, 5, "no flash attention on a GPU; no vector kernels on the CPU");
    facts = (da_facts){&cards, DA_ISA_AVX512, 131072, 1, 1};
    check_facts(&facts, 2, "flash attention 3; 2 GPUs, no H100");
    check_facts(&facts, 3, "131,072 tokens");
    check_facts(&facts, 4, "1 rank; 2 GPUs; 131,072 tokens");
    check_facts(&facts, 5, "flash attention 3 on a GPU; avx512 kernels on the CPU");
    cards.gpus[1] = gpus[H100];
    cards.flash_attention_3 = false;
    cards.flash_attention_2 = true;
    facts = (da_facts){&cards, DA_ISA_PORTABLE, 1, 1, 1};
    check_facts(&facts, 2, "no flash attention 3; GPU 1 is NVIDIA H100 80GB HBM3");
    check_facts(&facts, 3, "1 token");
    check_facts(&facts, 5, "flash attention 2 on a GPU; no vector kernels on the CPU");
    cards.gpus[1].name[0] = '\0';
    check_facts(&facts, 2, "no flash attention 3; GPU 1 is an H100 by its compute capability");
    memset(cards.gpus[1].name, 'x', sizeof cards.gpus[1].name - 1);
    check_facts(&facts, 6, "needs nothing");
    facts.quality_target = 0.99;
    check_facts(&facts, 1, "quality_target 0.99");
}

static void test_numbers(void **state) {
    (void)state;
    static const struct {
        double number;
        const char *text;
    } rows[] = {
        {0, "0"},
        {7, "7"},
        {999, "999"},
        {1000, "1,000"},
        {12345, "12,345"},
        {123456, "123,456"},
        {1234567, "1,234,567"},
        {999999999999999, "999,999,999,999,999"},
        {1e15, "1.000e+15"},
        {1e300, "1.000e+300"},
        {-1, "-1.000e+00"},
    };
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        char text[DA_NUMBER_SIZE];
        da_format_number(rows[k].number, text);
        assert_string_equal(text, rows[k].text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conditions),       cmocka_unit_test(test_selection),
        cmocka_unit_test(test_creation_by_auto), cmocka_unit_test(test_quality_target),
        cmocka_unit_test(test_this_machine),     cmocka_unit_test(test_nothing_fits),
        cmocka_unit_test(test_fitting),          cmocka_unit_test(test_facts),
        cmocka_unit_test(test_numbers),
    };
    return cmocka_run_group_tests_name("selection", tests, NULL, NULL);
}
