// From the text of a module to decoded kernels.
#include "ptx.h"
#include <cstdlib>
#include <set>
#include <string_view>
#include <unordered_map>

using std::string;
using std::string_view;
using std::vector;

static const std::pair<const char *, Type> TYPES[] = {
    {"u8", U8}, {"u16", U16}, {"u32", U32}, {"u64", U64}, {"s8", S8}, {"s16", S16}, {"s32", S32}, {"s64", S64},
    {"b8", U8}, {"b16", U16}, {"b32", U32}, {"b64", U64}, {"f16", F16}, {"bf16", BF16}, {"f32", F32}, {"f64", F64},
    {"tf32", TF32}, {"f16x2", F16X2}, {"bf16x2", BF16X2}, {"pred", PRED}};
Type type_of(const string &name) {
    for (auto &[n, type] : TYPES)
        if (name == n) return type;
    return NO_TYPE;
}
u32 bits_of(Type type) {
    static const u32 bits[] = {8, 16, 32, 64, 8, 16, 32, 64, 16, 16, 32, 64, 32, 32, 32, 1, 0};
    return bits[type];
}
string Kernel::line(u32 number) const {
    size_t at = 0;
    while (--number && at != string::npos) at = text->find('\n', at) + 1;
    return text->substr(at, text->find('\n', at) - at);
}

namespace {
[[noreturn]] void bad(const string &what) { throw Fault{INVALID_PTX, what}; }

struct Lexer {
    const char *p;
    u32 line = 1;
    string_view token;

    static bool letter(char c) { return isalnum((u8)c) || c == '_' || c == '$' || c == '%' || c == '.'; }
    void blank() {
        for (;;) {
            if (*p == '\n') line++, p++;
            else if (isspace((u8)*p)) p++;
            else if (p[0] == '/' && p[1] == '/') end_of_line();
            else if (p[0] == '/' && p[1] == '*') {
                for (p += 2; *p && !(p[0] == '*' && p[1] == '/'); p++) line += *p == '\n';
                if (*p) p += 2;
            } else return;
        }
    }
    void end_of_line() { while (*p && *p != '\n') p++; }
    // An empty token is the end.
    string_view next() {
        blank();
        const char *start = p;
        if (*p == '"') {
            for (p++; *p && *p != '"'; p++) {}
            if (*p) p++;
        } else if (letter(*p)) {
            while (letter(*p) || (p[0] == ':' && p[1] == ':' && ++p)) p++;
        } else if (*p) p++;
        return token = string_view(start, p - start);
    }
    char peek() { blank(); return *p; }
    bool accept(char c) {
        if (peek() != c) return false;
        p++;
        return true;
    }
    void expect(char c) {
        if (!accept(c)) bad("line " + std::to_string(line) + ": expected " + c + " before " + string(p, strnlen(p, 20)));
    }
    void skip_to(char c) { while (*p && !accept(c)) next(); }
    void skip_braces() {
        for (int depth = 1; depth && peek();) {
            next();
            depth += token == "{" ? 1 : token == "}" ? -1 : 0;
        }
    }
    u64 integer() {
        bool minus = accept('-');
        next();
        u64 value = strtoull(string(token).c_str(), nullptr, 0);
        return minus ? -value : value;
    }
};

struct Operand {
    enum Kind { REGISTER, NUMBER, SYMBOL, ADDRESS, VECTOR } kind = NUMBER;
    int reg = -1;           // also the base of an address
    u64 value = 0;          // of a number or symbol; offset of an address
    bool negated = false;
    Space space = GENERIC;  // of a symbol
    int second = -1;        // d|p
    vector<Operand> items;
};

struct Symbol { u64 value; Space space; };

struct Decoder {
    Lexer &lex;
    Kernel &kernel;
    std::map<string, Symbol, std::less<>> symbols;   // variables and parameters
    struct Name { int id; u32 bits; };
    vector<std::unordered_map<string, Name>> scopes;  // registers; of %r<9> only the prefix is here
    std::map<string, u32, std::less<>> labels;
    vector<std::pair<u32, string>> jumps;
    std::map<std::pair<u32, u64>, int> constants;
    vector<vector<int>> operands;                     // per instruction: registers, by number
    u32 line = 0;

    Decoder(Lexer &lex, Kernel &kernel) : lex(lex), kernel(kernel) {
        for (int &s : kernel.special) s = -1;
    }

    int add_register(u32 bits) {
        kernel.registers.push_back({bits == 8 ? 16 : bits});
        return kernel.registers.size() - 1;
    }
    int constant(u64 value, u32 bits) {
        if (bits < 64 && bits > 1) value &= (1ull << bits) - 1;
        auto [at, fresh] = constants.insert({{bits, value}, 0});
        if (fresh) {
            at->second = add_register(bits);
            Register &r = kernel.registers.back();
            r.constant = r.fixed = true;
            r.value = value;
        }
        return at->second;
    }
    int special(string_view name) {
        static const std::pair<const char *, int> names[] = {
            {"%laneid", LANE}, {"%warpid", WARP_ID}, {"%nwarpid", NWARP}, {"%lanemask_eq", MASK_EQ}, {"%lanemask_lt", MASK_LT},
            {"%lanemask_le", MASK_LE}, {"%lanemask_gt", MASK_GT}, {"%lanemask_ge", MASK_GE}, {"%smid", ZERO},
            {"%gridid", ZERO}, {"%dynamic_smem_size", DYNAMIC}, {"%cluster_ctarank", ZERO}, {"%cluster_ctaid.x", ZERO}};
        int found = -1;
        if (name.size() > 2 && name[name.size() - 2] == '.') {
            string_view stem = name.substr(0, name.size() - 2);
            int axis = name.back() - 'x';
            if (stem == "%tid") found = TID + axis;
            if (stem == "%ntid") found = NTID + axis;
            if (stem == "%ctaid") found = CTAID + axis;
            if (stem == "%nctaid") found = NCTAID + axis;
        }
        for (auto &[n, s] : names)
            if (name == n) found = s;
        if (found < 0) return -1;
        int &id = kernel.special[found];
        if (id < 0) {
            id = add_register(32);
            kernel.registers[id].fixed = true;
        }
        return id;
    }
    int find_register(string_view name) {
        for (size_t s = scopes.size(); s--;) {
            auto found = scopes[s].find(string(name));
            if (found != scopes[s].end()) return found->second.id;
        }
        size_t digits = name.size();
        while (digits && isdigit((u8)name[digits - 1])) digits--;
        if (digits < name.size())
            for (size_t s = scopes.size(); s--;) {
                auto found = scopes[s].find(string(name.substr(0, digits)) + "<");
                if (found != scopes[s].end()) return found->second.id + atoi(string(name.substr(digits)).c_str());
            }
        if (name == "WARP_SZ") return constant(32, 32);
        return special(name);
    }

    // .reg .b32 %r<9>, a, b;
    void declare_registers() {
        Type type = type_of(string(lex.next().substr(1)));
        if (type == NO_TYPE) bad("register type " + string(lex.token));
        do {
            string name(lex.next());
            if (lex.accept('<')) {
                u32 count = lex.integer();
                lex.expect('>');
                scopes.back()[name + "<"] = {(int)kernel.registers.size(), bits_of(type)};
                for (u32 i = 0; i < count; i++) add_register(bits_of(type));
            } else scopes.back()[name] = {add_register(bits_of(type)), bits_of(type)};
        } while (lex.accept(','));
        lex.expect(';');
    }

    Operand number() {
        Operand o;
        bool minus = lex.accept('-');
        string t(lex.next());
        if (t.size() > 2 && t[0] == '0' && (t[1] == 'f' || t[1] == 'F')) o.value = strtoul(t.c_str() + 2, nullptr, 16);
        else if (t.size() > 2 && t[0] == '0' && (t[1] == 'd' || t[1] == 'D')) o.value = strtoull(t.c_str() + 2, nullptr, 16);
        else o.value = strtoull(t.c_str(), nullptr, 0);
        if (minus) o.value = -o.value;
        return o;
    }
    Operand operand() {
        Operand o;
        if (lex.accept('{')) {
            o.kind = Operand::VECTOR;
            do o.items.push_back(operand());
            while (lex.accept(','));
            lex.expect('}');
        } else if (lex.accept('[')) {
            Operand base = operand();
            o = base;
            o.kind = Operand::ADDRESS;
            if (base.kind == Operand::NUMBER) o.reg = -1;
            while (lex.accept('+')) o.value += lex.integer();
            lex.expect(']');
        } else if (lex.accept('!')) {
            o = operand();
            o.negated = true;
        } else if (lex.peek() == '-' || isdigit((u8)lex.peek())) {
            o = number();
        } else {
            string_view name = lex.next();
            auto symbol = symbols.find(name);
            if (name == "_") o = {Operand::REGISTER, -2};
            else if (symbol != symbols.end()) {
                o.kind = Operand::SYMBOL;
                o.value = symbol->second.value;
                o.space = symbol->second.space;
            } else {
                o.kind = Operand::REGISTER;
                o.reg = find_register(name);
                if (o.reg < 0) { o.reg = -1; unknown = string(name); }
            }
            if (o.kind == Operand::REGISTER && lex.accept('|')) {
                Operand q = operand();
                o.second = q.reg;
            }
            if (o.kind == Operand::SYMBOL && lex.peek() == '+' ) {
                lex.accept('+');
                o.value += lex.integer();
            }
        }
        return o;
    }
    string unknown;   // a name that is no register: of a clock, or of a function

    // The register for an operand that has to have so many bits; -1 if it hasn't.
    int as_register(const Operand &o, u32 bits) {
        if (o.kind == Operand::NUMBER || o.kind == Operand::SYMBOL) return constant(o.value, bits);
        if (o.kind != Operand::REGISTER) return -1;
        if (o.reg == -2) return add_register(bits);
        if (o.reg < 0 || (bits && kernel.registers[o.reg].bits != bits)) return -1;
        return o.reg;
    }
    u32 width(int reg) { return kernel.registers[reg].bits; }

    Ins &emit(Handler full, Handler partial, vector<int> regs, u32 results) {
        Ins ins{};
        ins.run[0] = full;
        ins.run[1] = partial;
        ins.count = regs.size();
        ins.results = results;
        ins.line = line;
        kernel.code.push_back(ins);
        operands.push_back(std::move(regs));
        return kernel.code.back();
    }
    void emit_jump(const string &label, int guard, bool negated) {
        jumps.push_back({kernel.code.size(), label});
        if (guard < 0) emit(branch, branch, {}, 0);
        else emit(branch_if, branch_if, {guard}, 0).flag = negated;
    }
    void emit_unsupported(const string &what) {
        if (kernel.unsupported.empty()) kernel.unsupported = what;
        emit(unsupported, unsupported, {}, 0);
    }

    void instruction() {
        line = lex.line;
        int guard = -1;
        bool negated = false;
        if (lex.token == "@") {
            negated = lex.accept('!');
            guard = find_register(lex.next());
            if (guard < 0) bad("guard " + string(lex.token));
            lex.next();
        }
        string opcode(lex.token);
        vector<string> name;
        for (size_t at = 0; at <= opcode.size();) {
            size_t dot = std::min(opcode.find('.', at), opcode.size());
            name.push_back(opcode.substr(at, dot - at));
            at = dot + 1;
        }
        if (name[0] == "bra") {
            string label(lex.next());
            emit_jump(label, guard, negated);
            lex.expect(';');
            return;
        }
        vector<Operand> list;
        unknown.clear();
        if (lex.peek() != ';' && name[0] != "call") {
            do list.push_back(operand());
            while (lex.accept(','));
        } else lex.skip_to(';'), lex.p -= 1;
        lex.expect(';');
        // Any other guarded instruction is jumped over.
        string over;
        if (guard >= 0) {
            over = "@" + std::to_string(kernel.code.size());
            emit_jump(over, guard, !negated);
        }
        size_t before = kernel.code.size();
        if (!decode(name, list)) {
            kernel.code.resize(before);
            operands.resize(before);
            emit_unsupported("line " + std::to_string(line) + ": " + opcode + (unknown.empty() ? "" : " with " + unknown));
        }
        if (guard >= 0) labels[over] = kernel.code.size();
    }

    bool table(const string &name, const vector<Operand> &list) {
        const Operation *op = operation(name);
        if (!op || list.size() != op->bits.size()) return false;
        vector<int> regs;
        for (size_t i = 0; i < list.size(); i++) {
            regs.push_back(as_register(list[i], op->bits[i]));
            if (regs.back() < 0) return false;
        }
        emit(op->run[0], op->run[1], regs, op->results);
        return true;
    }

    bool decode(const vector<string> &name, vector<Operand> &list) {
        const string &base = name[0];
        string joined = base;
        for (size_t i = 1; i < name.size(); i++) joined += "." + name[i];

        if (base == "ret" || base == "exit") { emit(leave, leave, {}, 0); return true; }
        if (base == "trap") { emit(trap, trap, {}, 0); return true; }
        static const std::set<string> nothings = {"membar", "fence", "griddepcontrol", "prefetch", "prefetchu", "brkpt", "pmevent",
            "setmaxnreg", "discard", "applypriority", "createpolicy", "nop"};
        bool proxy = base == "fence" && name.size() > 2 && name[1] == "proxy" && name[2] == "async";
        if (nothings.count(base) && !proxy) return true;
        if (base == "nanosleep") { emit(doze, doze, {}, 0); return true; }
        if (base == "mov" && !unknown.empty()) return table("clock." + name[1], {list[0]});
        if (base == "mov" && list.size() == 2) return move(type_of(name[1]), list);
        if (base == "cvta" && list.size() == 2) return to_generic(name, list);
        if (base == "setp") return compare(name, list);
        if (base == "cvt") return conversion(name, list, joined);
        if (base == "bar" || base == "barrier") return bars(name, list);
        if (special_form(name, list)) return true;

        // The rest are tables; rounding to nearest and hints about caches do not show in their names.
        string key = base;
        for (size_t i = 1; i < name.size(); i++)
            if (name[i] != "rn" && name[i] != "noftz" && name[i] != "uni") key += "." + name[i];
        return table(key, list);
    }

    bool move(Type type, vector<Operand> &list) {
        u32 bits = bits_of(type);
        if (list[0].kind == Operand::VECTOR || list[1].kind == Operand::VECTOR) {
            bool unpack = list[0].kind == Operand::VECTOR;
            auto &items = list[unpack ? 0 : 1].items;
            u32 part = bits / items.size();
            vector<int> regs;
            for (auto &item : items) regs.push_back(as_register(item, part));
            int whole = as_register(list[unpack ? 1 : 0], bits);
            regs.insert(unpack ? regs.end() : regs.begin(), whole);
            for (int r : regs) if (r < 0) return false;
            const Operation *op = operation((unpack ? "unpack." : "pack.") + std::to_string(bits) + "." + std::to_string(part));
            if (!op) return false;
            emit(op->run[0], op->run[1], regs, unpack ? items.size() : 1);
            return true;
        }
        return table("mov.b" + std::to_string(bits), list);
    }
    bool to_generic(const vector<string> &name, vector<Operand> &list) {
        bool back = name[1] == "to";
        const string &space = name[back ? 2 : 1];
        u64 window = (space == "shared" || space == "shared::cta" ? SHARED : space == "local" ? LOCAL : space == "param" ? PARAM : GENERIC);
        int d = as_register(list[0], 64), a = as_register(list[1], 64);
        if (d < 0 || a < 0) return false;
        const Operation *op = operation(!window ? "mov.b64" : back ? "and.b64" : "or.b64");
        vector<int> regs = {d, a};
        if (window) regs.push_back(constant(back ? (1ull << WINDOW) - 1 : window << WINDOW, 64));
        emit(op->run[0], op->run[1], regs, 1);
        return true;
    }
    // setp.lt.and.f32 p|q, a, b, !c: two results always, the third source is true where there's none.
    bool compare(const vector<string> &name, vector<Operand> &list) {
        u32 bits;
        Handler handler = comparison(name[1], name.back(), bits);
        if (!handler || list.size() < 3) return false;
        string combine = name.size() > 3 && name[2] != "ftz" ? name[2] : "";
        vector<int> regs = {as_register(list[0], 1)};
        if (list[0].second >= 0) regs.push_back(list[0].second);
        u32 results = regs.size();
        regs.push_back(as_register(list[1], bits));
        regs.push_back(as_register(list[2], bits));
        if (list.size() > 3) regs.push_back(as_register(list[3], 1));
        for (int r : regs) if (r < 0) return false;
        Ins &ins = emit(handler, handler, regs, results);
        ins.kind = combine == "and" ? 1 : combine == "or" ? 2 : combine == "xor" ? 3 : 0;
        ins.flag = list.size() > 3 && list[3].negated;
        return true;
    }
    bool conversion(const vector<string> &name, vector<Operand> &list, const string &joined) {
        Type from = type_of(name.back()), to = type_of(name[name.size() - 2]);
        if (from == NO_TYPE || to == NO_TYPE) return false;
        if (table(joined, list)) return true;   // the common ones
        if (list.size() < 2 || list[0].kind != Operand::REGISTER) return false;
        vector<int> regs = {as_register(list[0], 0)};
        for (size_t i = 1; i < list.size(); i++) regs.push_back(as_register(list[i], list[i].reg >= 0 ? 0 : bits_of(from)));
        for (int r : regs) if (r < 0) return false;
        Handler handler = list.size() == 3 ? convert_pair : convert;
        Ins &ins = emit(handler, handler, regs, 1);
        ins.type[0] = to;
        ins.type[1] = from;
        ins.width[0] = width(regs[0]) / 8;
        ins.width[1] = width(regs[1]) / 8;
        ins.mode = 0;
        for (auto &n : name) {
            if (n.size() >= 2 && n[0] == 'r' && n != "relu" && n != "rna")
                ins.mode = n[1] == 'n' ? 0 : n[1] == 'z' ? 1 : n[1] == 'm' ? 2 : 3, ins.kind = n.size() == 3;
            if (n == "sat") ins.flag = true;
            if (n == "relu" || n == "satfinite") return false;
        }
        return true;
    }
    bool bars(const vector<string> &name, vector<Operand> &list) {
        string what = name[1] == "cta" ? name[2] : name[1];
        if (name[1] == "warp" || name[1] == "cluster") {
            vector<int> regs;
            if (name[1] == "warp") regs.push_back(as_register(list[0], 32));
            Ins &ins = emit(nullptr, nullptr, regs, 0);
            Handler handler = warp_handler(name, ins, {});
            ins.run[0] = ins.run[1] = handler;
            return handler;
        }
        if (what != "sync" && what != "arrive") return false;
        vector<int> regs;
        for (auto &o : list) regs.push_back(as_register(o, 32));
        if (regs.empty()) regs.push_back(constant(0, 32));
        for (int r : regs) if (r < 0) return false;
        emit(barrier, barrier, regs, 0).kind = what == "arrive";
        return true;
    }

    // Instructions with addresses, vectors or two results: flattened in the order in which they are written.
    bool special_form(const vector<string> &name, vector<Operand> &list) {
        vector<int> regs;
        vector<u32> bits;
        i64 offset = 0, second = 0;
        Space space = GENERIC;
        u32 wide = 1;
        bool address = false, negated = false;
        static const std::set<string> bases = {"ld", "st", "atom", "red", "cp", "mbarrier", "shfl", "vote", "match", "redux", "elect",
            "activemask", "mma", "wgmma", "fence", "wmma", "ldmatrix", "stmatrix"};
        if (!bases.count(name[0]) || !unknown.empty()) return false;
        u32 results = 0;
        auto add = [&](int reg) { regs.push_back(reg); bits.push_back(reg < 0 ? 0 : width(reg)); };
        Type type = type_of(name.back());
        for (size_t n = 0; n < list.size(); n++) {
            Operand &o = list[n];
            negated |= o.negated;
            if (o.kind == Operand::ADDRESS) {
                if (!address) offset = o.value, space = o.space;
                else if (o.value && name[0] == "cp") second = o.value;
                bool first = !address;
                address = true;
                if (o.reg >= 0) {
                    if (first) wide = width(o.reg) == 64;
                    add(o.reg);
                } else add(constant(0, 64));
            } else if (o.kind == Operand::VECTOR) {
                for (auto &item : o.items) add(as_register(item, item.reg >= 0 ? 0 : std::max(16u, bits_of(type))));
            } else if (o.kind == Operand::REGISTER) {
                add(o.reg == -2 ? add_register(std::max(16u, bits_of(type))) : o.reg);
                if (o.second >= 0) add(o.second);
            } else {
                bool value = (name[0] == "st" || name[0] == "atom" || name[0] == "red") && type != NO_TYPE;
                add(constant(o.value, value ? std::max(16u, bits_of(type)) : 32));
            }
            if (n == 0) results = o.kind == Operand::ADDRESS ? 0 : regs.size();
        }
        bool transposed = false;
        if (name[0] == "wgmma" && name[1] == "mma_async") {
            // d, a, b, scale of d, signs of a and b, whether they are transposed: a only if it is in shared memory
            bool in_registers = list.size() > 1 && list[1].kind == Operand::VECTOR;
            if (list.size() != (in_registers ? 7 : 8) || list[4].value != 1 || list[5].value != 1 || (!in_registers && list[6].value)) return false;
            transposed = list.back().value;
            for (u32 n = 0; n < results; n++) add(regs[n]);   // the sums are read, too
        }
        for (int r : regs) if (r < 0) return false;
        Ins probe{};
        probe.immediate = offset;
        probe.space = space;
        probe.wide = wide;
        probe.flag = negated || transposed;
        probe.count = regs.size();
        probe.results = results;
        probe.type[0] = type;
        probe.second = second;
        Handler handler = nullptr;
        if (address_handler(name, probe, bits)) handler = probe.run[0];
        else handler = warp_handler(name, probe, bits);
        if (!handler) return false;
        probe.run[0] = probe.run[1] = handler;
        probe.line = line;
        emit(handler, handler, regs, results) = probe;
        return true;
    }

    void body() {
        scopes.push_back({});
        for (int depth = 1; depth;) {
            string_view t = lex.next();
            if (t.empty()) bad("end within a kernel");
            if (t == "{") { depth++; scopes.push_back({}); }
            else if (t == "}") { depth--; scopes.pop_back(); }
            else if (t == ".loc" || t == ".file") lex.end_of_line();
            else if (t == ".pragma" || t == ".branchtargets") lex.skip_to(';');
            else if (t == ".reg") declare_registers();
            else if (t == ".shared") variable(SHARED, kernel.static_shared);
            else if (t == ".local") variable(LOCAL, kernel.local_bytes);
            else if (lex.peek() == ':' && t != "@") { lex.accept(':'); labels[string(t)] = kernel.code.size(); }
            else if (t == ";") {}
            else instruction();
        }
        emit(leave, leave, {}, 0);
        for (auto &[at, label] : jumps) {
            auto found = labels.find(label);
            if (found == labels.end()) bad("no label " + label);
            kernel.code[at].target = kernel.code.data() + found->second;
        }
        place();
    }
    // .align 16 .b8 name[64];
    void variable(Space space, u32 &end) {
        u32 align = 1, size = 1;
        string_view t = lex.next();
        if (t == ".align") { align = lex.integer(); t = lex.next(); }
        u32 element = bits_of(type_of(string(t.substr(1)))) / 8;
        align = std::max(align, element);
        string name(lex.next());
        while (lex.accept('[')) {
            if (lex.peek() == ']') size = 0;
            else size *= lex.integer();
            lex.expect(']');
        }
        lex.skip_to(';');
        end = (end + align - 1) / align * align;
        symbols[name] = {size ? end : DYNAMIC_SHARED, space};
        end += size * element;
    }

    void place();
};

// Gives registers their places in the file. A place is used again where liveness allows: PTX names every value anew, and
// without this the files of big kernels do not fit the caches.
void Decoder::place() {
    size_t n = kernel.code.size(), words = (kernel.registers.size() + 63) / 64;
    vector<size_t> starts = {0};
    {
        vector<bool> start(n + 1);
        for (size_t i = 0; i < n; i++)
            if (kernel.code[i].target && (kernel.code[i].run[0] == branch || kernel.code[i].run[0] == branch_if)) {
                start[kernel.code[i].target - kernel.code.data()] = true;
                start[i + 1] = true;
            }
        for (size_t i = 1; i < n; i++)
            if (start[i]) starts.push_back(i);
    }
    size_t blocks = starts.size();
    starts.push_back(n);
    vector<u32> block_of(n);
    for (size_t b = 0; b < blocks; b++)
        for (size_t i = starts[b]; i < starts[b + 1]; i++) block_of[i] = b;
    vector<u64> in(blocks * words), out(blocks * words), use(blocks * words), define(blocks * words);
    for (size_t b = 0; b < blocks; b++)
        for (size_t i = starts[b]; i < starts[b + 1]; i++) {
            auto &regs = operands[i];
            for (size_t k = kernel.code[i].results; k < regs.size(); k++)
                if (!(define[b * words + regs[k] / 64] >> regs[k] % 64 & 1)) use[b * words + regs[k] / 64] |= 1ull << regs[k] % 64;
            for (size_t k = 0; k < kernel.code[i].results; k++) define[b * words + regs[k] / 64] |= 1ull << regs[k] % 64;
        }
    for (bool changed = true; changed;) {
        changed = false;
        for (size_t b = blocks; b--;) {
            const Ins &last = kernel.code[starts[b + 1] - 1];
            auto flow = [&](size_t next) {
                for (size_t k = 0; k < words; k++) out[b * words + k] |= in[next * words + k];
            };
            if (last.run[0] == branch || last.run[0] == branch_if) flow(block_of[last.target - kernel.code.data()]);
            if (last.run[0] != branch && last.run[0] != leave && b + 1 < blocks) flow(b + 1);
            for (size_t k = 0; k < words; k++) {
                u64 live = use[b * words + k] | (out[b * words + k] & ~define[b * words + k]);
                if (live != in[b * words + k]) changed = true;
                in[b * words + k] = live;
            }
        }
    }
    // From first to last instruction where a register is live, gaps included.
    constexpr size_t never = ~0ull;
    vector<size_t> first(kernel.registers.size(), never), last(kernel.registers.size(), 0);
    auto touch = [&](size_t reg, size_t at) {
        first[reg] = std::min(first[reg], at);
        last[reg] = std::max(last[reg], at);
    };
    for (size_t b = 0; b < blocks; b++) {
        for (size_t k = 0; k < words; k++) {
            for (u64 m = in[b * words + k]; m; m &= m - 1) touch(k * 64 + __builtin_ctzll(m), starts[b]);
            for (u64 m = out[b * words + k]; m; m &= m - 1) touch(k * 64 + __builtin_ctzll(m), starts[b + 1] - 1);
        }
        for (size_t i = starts[b]; i < starts[b + 1]; i++)
            for (int r : operands[i]) touch(r, i);
    }
    vector<vector<int>> born(n), dies(n);
    u32 end = 0;
    std::map<u32, vector<u32>> unused;
    for (size_t r = 0; r < kernel.registers.size(); r++) {
        Register &reg = kernel.registers[r];
        if (reg.fixed) {
            reg.offset = end;
            end += std::max(64u, reg.bits * 4);
        } else if (first[r] != never) {
            born[first[r]].push_back(r);
            dies[last[r]].push_back(r);
        }
    }
    for (size_t i = 0; i < n; i++) {
        for (int r : born[i]) {
            u32 bytes = std::max(64u, kernel.registers[r].bits * 4);
            auto &list = unused[bytes];
            if (list.empty()) kernel.registers[r].offset = end, end += bytes;
            else kernel.registers[r].offset = list.back(), list.pop_back();
        }
        // A result never shares its place with a source of the same instruction.
        for (int r : dies[i]) unused[std::max(64u, kernel.registers[r].bits * 4)].push_back(kernel.registers[r].offset);
    }
    kernel.file_bytes = end;
    size_t total = 0;
    for (auto &regs : operands) total += regs.size();
    kernel.operands.reserve(total);
    for (size_t i = 0; i < n; i++) {
        Ins &ins = kernel.code[i];
        ins.all = kernel.operands.data() + kernel.operands.size();
        for (size_t k = 0; k < operands[i].size(); k++) {
            u32 offset = kernel.registers[operands[i][k]].offset;
            if (k < 5) ins.o[k] = offset;
            kernel.operands.push_back(offset);
        }
    }
}

// .global .align 4 .b8 table[24] = {1, 2, ...};
void global(Lexer &lex, Module &module, std::map<string, Symbol, std::less<>> &symbols) {
    u64 size = 1;
    string_view t = lex.next();
    if (t == ".align") { lex.integer(); t = lex.next(); }
    u32 element = bits_of(type_of(string(t.substr(1)))) / 8;
    string name(lex.next());
    while (lex.accept('[')) {
        if (lex.peek() != ']') size *= lex.integer();
        lex.expect(']');
    }
    u64 bytes = size * element;
    module.globals.push_back(std::make_unique<u64[]>(bytes / 8 + 2));
    u8 *place = (u8 *)module.globals.back().get();
    if (lex.accept('=')) {
        bool braces = lex.accept('{');
        u8 *at = place;
        do {
            u64 value = lex.integer();
            if (lex.token.substr(0, 2) == "0f" || lex.token.substr(0, 2) == "0d") value = strtoull(string(lex.token).c_str() + 2, nullptr, 16);
            memcpy(at, &value, element);
            at += element;
        } while (lex.accept(',') && at < place + bytes);
        if (braces) lex.expect('}');
    }
    lex.expect(';');
    symbols[name] = {(u64)place, GLOBAL};
    module.ranges.push_back({(u64)place, (u64)place + bytes});
}
}  // namespace

void parse(Module &module) {
    Lexer lex{module.text->c_str()};
    std::map<string, Symbol, std::less<>> symbols;
    u32 shared = 0;
    while (!lex.next().empty()) {
        string_view t = lex.token;
        if (t == ".version" || t == ".target" || t == ".address_size" || t == ".file" || t == ".loc") lex.end_of_line();
        else if (t == ".section") { lex.skip_to('{'); lex.skip_braces(); }
        else if (t == ".visible" || t == ".weak" || t == ".extern" || t == ";") {}
        else if (t == ".global" || t == ".const") global(lex, module, symbols);
        else if (t == ".shared") {
            Kernel scratch;
            scratch.static_shared = shared;
            Decoder d(lex, scratch);
            d.variable(SHARED, scratch.static_shared);
            symbols.insert(d.symbols.begin(), d.symbols.end());
            shared = scratch.static_shared;
        } else if (t == ".func") { lex.skip_to('{'); lex.skip_braces(); }
        else if (t == ".entry") {
            auto kernel = std::make_unique<Kernel>();
            kernel->name = lex.next();
            kernel->text = module.text;
            kernel->static_shared = shared;
            Decoder d(lex, *kernel);
            d.symbols = symbols;
            if (lex.accept('(') && !lex.accept(')'))
                do {
                    if (lex.next() != ".param") bad("parameter");
                    u32 before = kernel->parameter_bytes, align = 1, size = 1;
                    string_view w = lex.next();
                    if (w == ".align") { align = lex.integer(); w = lex.next(); }
                    u32 element = bits_of(type_of(string(w.substr(1)))) / 8;
                    string name;
                    for (w = lex.next(); w[0] == '.'; w = lex.next())   // .ptr .global .align 16
                        if (w == ".align") lex.integer();
                    name = w;
                    if (lex.accept('[')) { size = lex.integer(); lex.expect(']'); }
                    align = std::max(align, element);
                    before = (before + align - 1) / align * align;
                    d.symbols[name] = {before, PARAM};
                    kernel->parameters.push_back({before, size * element});
                    kernel->parameter_bytes = before + size * element;
                } while (lex.accept(','));
            if (!kernel->parameters.empty()) lex.expect(')');
            lex.skip_to('{');
            d.body();
            string key = kernel->name;
            module.kernels[key] = std::move(kernel);
        } else bad("line " + std::to_string(lex.line) + ": " + string(t));
    }
}
