"""How close are today's jet taggers to the best tagger that can exist?"""
